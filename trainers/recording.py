"""Callbacks that measure a run and write it down."""

import math
import statistics
import time

import keras
import tensorflow as tf

from trainers.averages import averaged_weights


class Speed(keras.callbacks.Callback):
    """Adds `images_per_second` over all workers to the logs of an epoch.

    Only training is counted: neither evaluation nor the first step, which compiles.
    """

    def __init__(self, global_batch_size):
        super().__init__()
        self.global_batch_size = global_batch_size
        self._compiled = False

    def on_epoch_begin(self, epoch, logs=None):
        self._since = time.monotonic()
        self._steps, self._seconds = 0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self._compiled:
            self._steps += 1
            self._seconds += now - self._since
        self._compiled, self._since = True, now

    def on_epoch_end(self, epoch, logs=None):
        images = self._steps * self.global_batch_size
        logs["images_per_second"] = images / self._seconds if images else 0.0


def images_per_second(rows):
    """Images a second over all epochs, from their rows; 0 if no epoch has more than one step.

    The epochs have the same number of images, so this is the harmonic mean of their speeds. An
    epoch whose only step compiled has none.
    """
    speeds = [row["images_per_second"] for row in rows if row["images_per_second"]]
    return statistics.harmonic_mean(speeds) if speeds else 0.0


def _number(value):
    """A float that JSON can hold: None for what is not finite."""
    return float(value) if math.isfinite(value) else None


class Evaluation(keras.callbacks.Callback):
    """Adds `val_loss` and `val_top1` to the logs, every few epochs and after the last one.

    Where the optimizer keeps averages of the weights, they are what is evaluated.

    Args:
        evaluator: function that gives {"loss", "top1", …}.
        prepare: called before, to bring BatchNorm's statistics up to date.
        every: epochs between evaluations.
        epochs: the last epoch.
    """

    def __init__(self, evaluator, prepare, every, epochs):
        super().__init__()
        self.evaluator, self.prepare, self.every, self.epochs = evaluator, prepare, every, epochs

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.epochs:
            with averaged_weights(self.model):
                self.prepare()
                logs.update({f"val_{name}": value for name, value in self.evaluator().items()})


class Divergence(keras.callbacks.Callback):
    """Stops a run whose training loss is no longer finite. Every worker sees the same logs."""

    def __init__(self):
        super().__init__()
        self.diverged = False

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            self.diverged = True
            self.model.stop_training = True


class Recorder(keras.callbacks.Callback):
    """Keeps a row for each epoch and, given a run directory, writes the rows down.

    Args:
        plan: the run's Plan.
        schedule: the learning-rate schedule.
        began: `time.time()` at the start of the process.
        rows: the rows of the epochs that are done already.
        run: the RunDirectory on the worker that writes, None on the others.
    """

    def __init__(self, plan, schedule, began, rows=(), run=None):
        super().__init__()
        self.plan, self.schedule, self.run = plan, schedule, run
        self.rows = list(rows)
        self._began = began - (self.rows[-1]["seconds"] if self.rows else 0.0)
        self._board = run and tf.summary.create_file_writer(str(run.path("tensorboard")))

    def seconds(self):
        """Seconds that the run has taken, those of earlier starts with it."""
        return time.time() - self._began

    def on_epoch_end(self, epoch, logs=None):
        updates = (epoch + 1) * self.plan.steps_per_epoch
        row = {
            "epoch": epoch + 1,
            "updates": updates,
            "learning_rate": float(self.schedule(updates - 1)),
            **{name: _number(value) for name, value in logs.items()},
            "seconds": self.seconds(),
        }
        self.rows.append(row)
        if self.run is not None:
            self.run.write_metrics(self.rows)
            with self._board.as_default(step=row["epoch"]):
                for name, value in logs.items():
                    tf.summary.scalar(name, value)
                tf.summary.scalar("learning_rate", row["learning_rate"])

    def on_train_end(self, logs=None):
        if self._board:
            self._board.close()
