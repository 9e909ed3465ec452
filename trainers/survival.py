"""Checkpoints while a run trains, and its end when it is asked to stop or others join."""

import time

import keras


class Stopped(Exception):
    """The run was asked to stop and has saved where it is; the argument is the signal's name."""


class Survival(keras.callbacks.Callback):
    """Saves every so often and after each evaluation; ends what is to stop or has diverged.

    All workers do the same after the same update. What comes up with the last update of an epoch
    waits until the epoch is evaluated and recorded.

    Args:
        checkpoints: the run's Checkpoints.
        recorder: its Recorder, whose rows are saved.
        interval: the Interval between checkpoints.
        agreement: the Agreement of the workers.
        signals: this worker's Signals.
        membership: the Membership of an elastic job, None outside of one.
    """

    def __init__(self, checkpoints, recorder, interval, agreement, signals, membership=None):
        super().__init__()
        self.checkpoints, self.recorder, self.interval = checkpoints, recorder, interval
        self.agreement, self.signals, self.membership = agreement, signals, membership
        self.position = recorder.position
        self._saved_at = time.monotonic()
        self._due = False

    def watch(self, divergence, states):
        """Before training: the Divergence, and {name: object with get_state}, saved as well."""
        self.divergence, self.states = divergence, states

    def on_epoch_begin(self, epoch, logs=None):
        if not self.position.at_end_of_epoch:
            self.checkpoints.restore_metrics()

    def on_train_batch_end(self, batch, logs=None):
        update, at_end = self.position.update, self.position.at_end_of_epoch
        end = self._exchange() if at_end or self.agreement.is_due(update) else None
        due = self._due or (self.interval.updates and update % self.interval.updates == 0)
        self._due = bool(due)
        if at_end:
            return
        if end or due:
            self._save()
        self._end(end)

    def on_epoch_end(self, epoch, logs=None):
        end = self._exchange()
        if end or self._due or "val_top1" in logs:
            self._save()
        if epoch + 1 < self.params["epochs"]:
            self._end(end)

    def _exchange(self):
        """The exception that is to end the run here on all workers, None if it is to go on.

        Notes whether a checkpoint is due by the clock.

        Raises:
            Diverged, WriteError: on all workers.
        """
        late = time.monotonic() - self._saved_at
        overdue = self.interval.seconds is not None and late >= self.interval.seconds
        own = [
            self.signals.asked is not None,
            self.checkpoints.failed,
            overdue and self.checkpoints.workers.rank == 0,
            self.membership is not None and self.membership.changed,
            *self.divergence.measure(),
        ]
        update = self.position.update
        stop, failed, overdue, others, *losses = self.agreement.sums(update, map(float, own))
        self.divergence.judge(*losses)
        if failed:
            self.checkpoints.finish()
        self._due = self._due or overdue > 0
        if stop:
            return Stopped(self.signals.asked or "a signal to another worker")
        return self.membership.interrupt() if others else None

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

    def _end(self, exception):
        if exception is not None:
            self.checkpoints.finish()
            raise exception
