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
        plan: the run's Plan.
        epochs: the run's last epoch.
        mode: "auto", "bar", "lines" or "none".
        schedule: the learning-rate schedule.
    """

    def __init__(self, plan, epochs, mode, schedule):
        super().__init__()
        if mode == "auto":
            mode = "bar" if shows_on_terminal() else "lines"
        self.plan, self.epochs, self.mode, self.schedule = plan, epochs, mode, schedule
        self.epoch = 0
        self._frame_at = self._line_at = time.monotonic()
        self._first_step_end = None
        self._width = 0

    def on_train_begin(self, logs=None):
        if self.mode == "bar":
            self._frame("compiling the training step …")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        step = self.epoch * self.plan.steps_per_epoch + batch + 1
        if self._first_step_end is None:
            self._first_step_end = now, step
        if self.mode == "bar" and now - self._frame_at > _SECONDS_BETWEEN_FRAMES:
            self._frame_at = now
            self._frame(self._bar(step) + self._numbers(step, logs) + self._left(step))

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        evaluated = "val_top1" in logs
        if self.mode == "none" or not (evaluated or now - self._line_at > _SECONDS_BETWEEN_LINES):
            return
        self._line_at = now
        step = (epoch + 1) * self.plan.steps_per_epoch
        test = f"  test {logs['val_top1']:7.2%}" if evaluated else " " * 14
        speed = f"  {logs['images_per_second']:7,.0f} images/s"
        head = f"epoch {epoch + 1:{len(str(self.epochs))}}/{self.epochs}"
        self._line(head + self._numbers(step, logs) + test + speed + self._left(step))

    def _numbers(self, step, logs):
        rate = float(self.schedule(step - 1))
        return f"  loss {logs['loss']:6.4f}  top-1 {logs['top1']:7.2%}  rate {rate:<7.3g}"

    def _left(self, step):
        began, first = self._first_step_end
        if step in (first, self.plan.updates):
            return ""
        seconds = (time.monotonic() - began) / (step - first) * (self.plan.updates - step)
        return f"  {duration(seconds)} left"

    def _bar(self, step):
        done = step / self.plan.updates
        full = int(done * _BAR)
        return f"{'━' * full}{'─' * (_BAR - full)} {done:4.0%}"

    def _frame(self, text):
        # ends in \r: horovodrun forwards what ends in \r or \n; spaces cover the frame before
        print(text.ljust(self._width), end="\r", flush=True)
        self._width = len(text)

    def _line(self, text):
        print(text.ljust(self._width), flush=True)
        self._width = 0
