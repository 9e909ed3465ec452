"""Elastic training: workers may leave, be killed and join while a job runs.

The collectives of a job fail when a worker dies, and a commit notices that one has joined. Then
all workers go back to their last commit, find each other anew, take over the state of the oldest
one, and go on. `horovodrun` starts such a job when it is given a `--host-discovery-script`.
"""

import functools
import os
import weakref

import horovod.tensorflow as horovod
import keras
import tensorflow as tf
from horovod.common.elastic import ObjectState, State, notification_manager
from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt

from tf_lars.horovod import keras_hooks
from tf_lars.horovod.ops import broadcast_object
from tf_lars.horovod.variables import broadcast_variables, tf_variable

__all__ = [
    "CommitStateCallback",
    "HostsUpdatedInterrupt",
    "KerasState",
    "ObjectState",
    "State",
    "TensorFlowKerasState",
    "UpdateBatchStateCallback",
    "UpdateEpochStateCallback",
    "run",
]

_MAX_FAILURES_WITHOUT_PROGRESS = 10


def run(func):
    """Decorates a training function so that it goes on when workers leave or join.

    The function is called once the state is the same on all workers. When a worker is lost, the
    others restore the last commit, start Horovod again and call the function anew; when one
    joins, `state.commit()` leads there without a restore. A job that is not elastic has nobody
    to go on with: there, errors are raised as they are.

    Args:
        func: function whose first argument is a `hvd.elastic.State`. No collective may run before
            it, except what a reset callback repeats: a joining worker would wait for the others
            in it, and they for that worker in the state's synchronisation.

    Returns:
        The decorated function; it returns what `func` does.

    Example:
        >>> @hvd.elastic.run
        ... def train(state):
        ...     model.fit(
        ...         dataset, steps_per_epoch=100, epochs=10 - state.epoch, callbacks=callbacks
        ...     )
        >>> train(state)
    """

    @functools.wraps(func)
    def wrapper(state, *args, **kwargs):
        notification_manager.init()
        notification_manager.register_listener(state)
        needs_sync, needs_reset, failures = True, False, 0
        try:
            while True:
                try:
                    if needs_reset:
                        _reset()
                        needs_reset = False
                        state.on_reset()
                    if needs_sync:
                        state.sync()
                    failures = 0
                    return func(state, *args, **kwargs)
                except HostsUpdatedInterrupt as interrupt:
                    needs_sync, needs_reset = not interrupt.skip_sync, True
                except Exception as error:
                    failures += 1
                    too_often = failures > _MAX_FAILURES_WITHOUT_PROGRESS
                    if too_often or not _is_lost_worker(error):
                        raise
                    state.restore()
                    needs_sync = needs_reset = True
        finally:
            notification_manager.remove_listener(state)

    return wrapper


def _reset():
    horovod.shutdown()
    try:
        horovod.init()
    except ValueError as error:  # another worker died while the ranks were finding each other
        raise HorovodInternalError(str(error)) from error


def _is_lost_worker(error):
    """Whether a collective failed because of another worker, in a job that can go on without."""
    if os.environ.get("HOROVOD_ELASTIC") != "1":
        return False
    if isinstance(error, HorovodInternalError):
        return True
    lost = (tf.errors.UnknownError, tf.errors.AbortedError, tf.errors.CancelledError)
    return isinstance(error, lost) and "Horovod" in error.message


class TensorFlowKerasState(ObjectState):
    """The state of a Keras model and its optimizer, and of any further objects.

    Synchronising takes over the weights, the optimizer's variables and the objects of rank 0.
    States of seed generators are committed and restored but stay apart by worker.

    Args:
        model: built `keras.Model`.
        optimizer: its optimizer; None for the one that the model is compiled with.
        backend: Horovod's argument for TensorFlow 1; ignored.
        **kwargs: further objects, which become attributes, such as `batch=0, epoch=0`.

    Raises:
        ValueError: if the model has no variables yet, or no optimizer is known.

    Example:
        >>> state = hvd.elastic.KerasState(model, batch=0, epoch=0)
    """

    def __init__(self, model, optimizer=None, backend=None, **kwargs):
        del backend
        keras_hooks.install()
        if not (model.built and model.variables):
            raise ValueError("Model must be built first. Run `model.build(input_shape)`.")
        self.model = model
        self.optimizer = optimizer or getattr(model, "optimizer", None)
        if self.optimizer is None:
            raise ValueError("optimizer: pass one, or compile the model with one")
        if not self.optimizer.built:
            self.optimizer.build(model.trainable_variables)
        super().__init__(bcast_object=broadcast_object, get_rank=horovod.rank, **kwargs)
        self._save_variables()

    def _variables(self):
        return [*self.model.variables, *self.optimizer.variables]

    def _save_variables(self):
        with tf.device("/cpu:0"):
            self._saved = [tf.identity(tf_variable(v)) for v in self._variables()]

    def save(self):
        self._save_variables()
        super().save()

    def restore(self):
        for variable, value in zip(self._variables(), self._saved, strict=True):
            tf_variable(variable).assign(value)
        super().restore()

    def sync(self):
        broadcast_variables(self._variables(), root_rank=0)
        super().save()
        super().sync()
        self._save_variables()


class KerasState(TensorFlowKerasState):
    """`TensorFlowKerasState` with Horovod's signature for Keras.

    Args:
        model: built `keras.Model`.
        optimizer: its optimizer; None for the one that the model is compiled with.
        **kwargs: further objects, which become attributes, such as `batch=0, epoch=0`.
    """

    def __init__(self, model, optimizer=None, **kwargs):
        super().__init__(model, optimizer=optimizer, **kwargs)


_progress = weakref.WeakKeyDictionary()  # state -> the callbacks that count for it in `fit`


class _ProgressCallback(keras.callbacks.Callback):
    """A callback that counts in a state. A commit asks it to count first, whatever the order."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def on_train_begin(self, logs=None):
        counting = _progress.setdefault(self.state, [])
        counting[:] = [other for other in counting if type(other) is not type(self)] + [self]

    def on_train_end(self, logs=None):
        _progress[self.state].remove(self)


class UpdateBatchStateCallback(_ProgressCallback):
    """Keeps `state.batch`, the number of batches finished in the current epoch; 0 between epochs.

    After a reset the epoch that was cut short is finished with only the batches that it lacks,
    where `fit` knows the number of steps. The dataset itself starts anew: skip what is done with
    `state.batch` if the batches should be others.

    Args:
        state: a `hvd.elastic.State` with an attribute `batch`.
    """

    class _EndOfEpoch:
        """Stops `fit`'s loop over batches; another callback's `True` stops the training."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._done_before = self.state.batch
        self._end_of_epoch = self._EndOfEpoch()

    def on_batch_end(self, batch, logs=None):
        self.state.batch = self._done_before + batch + 1
        steps = (self.params or {}).get("steps")
        if self._done_before and steps and self.state.batch >= steps:
            self.model.stop_training = self.model.stop_training or self._end_of_epoch

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stop_training is self._end_of_epoch:
            self.model.stop_training = False
        self.state.batch = self._done_before = 0


class UpdateEpochStateCallback(_ProgressCallback):
    """Keeps `state.epoch`, the number of epochs finished since the job began, over resets.

    Both ways of calling `fit` count right: `epochs=n - state.epoch`, as in Horovod's examples, and
    `initial_epoch=state.epoch, epochs=n`.

    Args:
        state: a `hvd.elastic.State` with an attribute `epoch`.
    """

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._done_before, self._first_epoch = self.state.epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        if self._first_epoch is None:
            self._first_epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.state.epoch = self._done_before + epoch - self._first_epoch + 1


class CommitStateCallback(keras.callbacks.Callback):
    """Commits the state every `batches_per_commit` batches and at the end of every epoch.

    A commit copies the state and asks whether workers have joined or left. It may stand before or
    after the callbacks that count. The last batch of an epoch is committed with the epoch's end.

    Args:
        state: the `hvd.elastic.State` to be committed.
        batches_per_commit: batches from one commit to the next, 1 or more.

    Raises:
        ValueError: for `batches_per_commit` below 1.
    """

    def __init__(self, state, batches_per_commit=1):
        super().__init__()
        if batches_per_commit < 1:
            raise ValueError(f"batches_per_commit is 1 or more, got {batches_per_commit!r}")
        self.state = state
        self.batches_per_commit = self.batches_remaining = batches_per_commit
        self._last_batch = -1

    def on_train_begin(self, logs=None):
        self.batches_remaining = self.batches_per_commit  # the same on a worker that has joined

    def on_epoch_begin(self, epoch, logs=None):
        self._last_batch = -1

    def on_batch_end(self, batch, logs=None):
        counting = _progress.get(self.state, [])
        for callback in counting:
            callback.on_batch_end(batch)
        self.batches_remaining -= batch - self._last_batch  # several in one execution
        self._last_batch = batch
        if self.batches_remaining <= 0:
            self.batches_remaining = self.batches_per_commit
            steps = (self.params or {}).get("steps")
            batches = [c for c in counting if isinstance(c, UpdateBatchStateCallback)]
            # An epoch that is committed as complete but not ended could not be gone on with.
            if not (batches and steps and self.state.batch >= steps):
                self.commit()

    def on_epoch_end(self, epoch, logs=None):
        for callback in _progress.get(self.state, []):
            callback.on_epoch_end(epoch)
        self.commit()

    def commit(self):
        """Commits now."""
        self.state.commit()
