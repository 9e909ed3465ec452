"""Callbacks that measure a run and write it down."""

import math
import statistics
import time

import keras
import tensorflow as tf

from trainers.averages import averaged_weights
from trainers.startup import elastic_job


class Speed(keras.callbacks.Callback):
    """Adds `images_per_second` over all workers to the logs of an epoch.

    Only training is counted: neither evaluation nor the first step, which compiles.

    Args:
        position: the run's Position.
    """

    def __init__(self, position):
        super().__init__()
        self.position = position
        self._compiled = False
        self._images, self._seconds = 0, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._since = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self._compiled:
            self._images += self.position.batch
            self._seconds += now - self._since
        self._compiled, self._since = True, now

    def on_epoch_end(self, epoch, logs=None):
        logs["images_per_second"] = self._images / self._seconds if self._images else 0.0
        self._images, self._seconds = 0, 0.0

    def get_state(self):
        return {"images": self._images, "seconds": self._seconds}

    def set_state(self, state):
        self._images, self._seconds = state["images"], state["seconds"]


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


class Recorder(keras.callbacks.Callback):
    """Keeps a row for each epoch and, given a run directory, writes the rows down.

    Args:
        position: the run's Position.
        schedule: the learning-rate schedule.
        began: `time.time()` at the start of the process.
        workers: all of them, of whom rank 0 writes.
        run: the RunDirectory.
        rows: the rows of the epochs that are done already.
    """

    def __init__(self, position, schedule, began, workers, run, rows=()):
        super().__init__()
        self.position, self.schedule, self.workers, self.run = position, schedule, workers, run
        self.rows = list(rows)
        self._began = began
        self.board_folder = run.path("tensorboard") if workers.rank == 0 else None
        self._board = self.board_folder and tf.summary.create_file_writer(str(self.board_folder))

    def seconds(self):
        """Seconds that the run has taken, those of earlier starts with it."""
        return time.time() - self._began

    def get_state(self):
        return {"seconds": self.seconds(), "until": time.time(), "job": elastic_job()}

    def set_state(self, state):
        """Adds the time of earlier starts; in one elastic job the time since then counts, too."""
        same_job = state.get("job") is not None and state["job"] == elastic_job()
        self._began = (state["until"] if same_job else self._began) - state["seconds"]

    def on_epoch_end(self, epoch, logs=None):
        updates = self.position.update
        row = {
            "epoch": epoch + 1,
            "updates": updates,
            "batch_size": self.position.batch,
            "learning_rate": float(self.schedule(updates - 1)),
            **{name: _number(value) for name, value in logs.items()},
            "seconds": self.seconds(),
        }
        self.rows.append(row)
        self.workers.by_rank_0(self._write, logs)

    def _write(self, logs):
        row = self.rows[-1]
        self.run.write_metrics(self.rows)
        with self._board.as_default(step=row["epoch"]):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
            tf.summary.scalar("learning_rate", row["learning_rate"])

    def close(self):
        """Ends TensorBoard's file."""
        if self._board:
            self._board.close()
