"""What a person sees while a run trains."""

import os
import sys
import time

import keras

_BAR = 20
_SECONDS_BETWEEN_FRAMES = 0.2
_SECONDS_BETWEEN_LINES = 15.0


def shows_on_terminal():
    """Whether stdout ends at a terminal, also through the pipe in which horovodrun holds it."""
    if sys.stdout.isatty():
        return True
    if "HOROVOD_RANK" not in os.environ:
        return False
    # horovodrun forwards what a worker prints: look at where its own stdout goes
    pid = os.getpid()
    try:
        while pid > 1:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = [os.path.basename(word) for word in file.read().split(b"\0")[:2]]
            stdout = os.path.realpath(f"/proc/{pid}/fd/1")
            if b"horovodrun" in words and stdout.startswith("/dev/pts/"):
                return True
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        pass  # not Linux, or not our process: plain lines are right everywhere
    return False


def duration(seconds):
    """0:07, 12:34 or 1:02:03."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress(keras.callbacks.Callback):
    """A line for each evaluated epoch and, on a terminal, a bar that moves in between.

    Args:
        position: the run's Position.
        epochs: the run's last epoch.
        mode: "auto", "bar", "lines" or "none".
        schedule: the learning-rate schedule.
    """

    def __init__(self, position, epochs, mode, schedule):
        super().__init__()
        if mode == "auto":
            mode = "bar" if shows_on_terminal() else "lines"
        self.position, self.epochs, self.mode, self.schedule = position, epochs, mode, schedule
        timetable = position.timetable
        self.examples = timetable.position(timetable.updates)
        self._grows = len({stretch.batch for stretch in timetable.stretches}) > 1
        self._frame_at = self._line_at = time.monotonic()
        self._first_step = None
        self._width = 0

    def on_train_begin(self, logs=None):
        if self.mode == "bar":
            self._frame("compiling the training step …")

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = now, self.position.examples
        if self.mode == "bar" and now - self._frame_at > _SECONDS_BETWEEN_FRAMES:
            self._frame_at = now
            self._frame(self._bar() + self._numbers(logs) + self._left())

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        evaluated = "val_top1" in logs
        if self.mode == "none" or not (evaluated or now - self._line_at > _SECONDS_BETWEEN_LINES):
            return
        self._line_at = now
        test = f"  test {logs['val_top1']:7.2%}" if evaluated else " " * 14
        speed = f"  {logs['images_per_second']:7,.0f} images/s"
        head = f"epoch {epoch + 1:{len(str(self.epochs))}}/{self.epochs}"
        self._line(head + self._numbers(logs) + test + speed + self._left())

    def _numbers(self, logs):
        rate = float(self.schedule(self.position.update - 1))
        batch = f"  batch {self.position.batch:,}" if self._grows else ""
        return f"  loss {logs['loss']:6.4f}  top-1 {logs['top1']:7.2%}  rate {rate:<7.3g}{batch}"

    def _left(self):
        began, first = self._first_step
        done = self.position.examples
        if done in (first, self.examples):
            return ""
        seconds = (time.monotonic() - began) / (done - first) * (self.examples - done)
        return f"  {duration(seconds)} left"

    def _bar(self):
        done = self.position.examples / self.examples
        full = int(done * _BAR)
        return f"{'━' * full}{'─' * (_BAR - full)} {done:4.0%}"

    def _frame(self, text):
        # ends in \r: horovodrun forwards what ends in \r or \n; spaces cover the frame before
        print(text.ljust(self._width), end="\r", flush=True)
        self._width = len(text)

    def _line(self, text):
        print(text.ljust(self._width), flush=True)
        self._width = 0
