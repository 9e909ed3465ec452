"""Checkpoints while a run trains, and its end when it is asked to stop."""

import time

import keras


class Stopped(Exception):
    """The run was asked to stop and has saved where it is; the argument is the signal's name."""


class Survival(keras.callbacks.Callback):
    """Saves every so often and after each evaluation; stops, and ends what has diverged.

    All workers do the same after the same update. What comes up with the last update of an epoch
    waits until the epoch is evaluated and recorded.

    Args:
        checkpoints: the run's Checkpoints.
        position: its Position.
        interval: the Interval between checkpoints.
        agreement: the Agreement of the workers.
        signals: this worker's Signals.
        divergence: the Divergence.
        recorder: the Recorder, whose rows are saved.
        states: {name: object with get_state and set_state}, saved and restored as well.
    """

    def __init__(
        self, checkpoints, position, interval, agreement, signals, divergence, recorder, states
    ):
        super().__init__()
        self.checkpoints, self.position, self.interval = checkpoints, position, interval
        self.agreement, self.signals, self.divergence = agreement, signals, divergence
        self.recorder, self.states = recorder, states
        self._saved_at = time.monotonic()
        self._due = False

    def on_epoch_begin(self, epoch, logs=None):
        if not self.position.at_end_of_epoch:
            self.checkpoints.restore_metrics()

    def on_train_batch_end(self, batch, logs=None):
        update, at_end = self.position.update, self.position.at_end_of_epoch
        stop = (at_end or self.agreement.is_due(update)) and self._exchange()
        due = self._due or (self.interval.updates and update % self.interval.updates == 0)
        self._due = bool(due)
        if at_end:
            return
        if stop or due:
            self._save()
        if stop:
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        stop = self._exchange()
        if stop or self._due or "val_top1" in logs:
            self._save()
        if stop and epoch + 1 < self.params["epochs"]:
            self._stop()

    def _exchange(self):
        """Whether some worker was asked to stop; notes whether a checkpoint is due by the clock.

        Raises:
            Diverged, WriteError: on all workers.
        """
        late = time.monotonic() - self._saved_at
        overdue = self.interval.seconds is not None and late >= self.interval.seconds
        own = [
            self.signals.asked is not None,
            self.checkpoints.failed,
            overdue and self.checkpoints.workers.rank == 0,
            *self.divergence.measure(),
        ]
        update = self.position.update
        stop, failed, overdue, *losses = self.agreement.sums(update, map(float, own))
        self.divergence.judge(*losses)
        if failed:
            self.checkpoints.finish()
        self._due = self._due or overdue > 0
        return stop > 0

    def _save(self):
        self.checkpoints.save(
            {
                "update": self.position.update,
                "examples": self.position.examples,
                "world_size": self.checkpoints.workers.size,
                "rows": list(self.recorder.rows),
                "states": {name: thing.get_state() for name, thing in self.states.items()},
            }
        )
        self._due, self._saved_at = False, time.monotonic()

    def _stop(self):
        self.checkpoints.finish()
        raise Stopped(self.signals.asked or "a signal to another worker")
