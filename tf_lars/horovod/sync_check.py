"""Whether the ranks' weights still agree, and where they do not."""

import hashlib

import horovod.tensorflow as horovod
import keras
import numpy as np
import tensorflow as tf

from tf_lars.horovod.guards import RanksDifferError, check_same_settings, describe_variables
from tf_lars.horovod.variables import tf_variable, without_seeds


class SyncReport:
    """What `check_in_sync` found; true when the ranks agree.

    Attributes:
        differences: list of (variable's path, largest difference from the first rank, rank).
    """

    def __init__(self, differences):
        self.differences = differences

    def __bool__(self):
        return not self.differences

    def __str__(self):
        if self:
            return "the ranks are in sync"
        lines = [
            f"{path} of rank {rank} differs by up to {largest:.3g}"
            for path, largest, rank in self.differences[:5]
        ]
        more = len(self.differences) - len(lines)
        return f"the ranks differ: {'; '.join(lines)}{f'; and {more} more' if more else ''}"

    __repr__ = __str__


def check_in_sync(model, process_set=horovod.global_process_set):
    """Says whether the ranks' weights agree bit for bit, and where they do not.

    Compared are the trainable variables and the optimizer's; not the states of random numbers and
    BatchNorm's moving statistics, which are each rank's own. A collective call: every rank. As
    long as all agree, 16 bytes a variable are sent.

    Args:
        model: a `keras.Model`, or a list of variables.
        process_set: the ranks that take part.

    Returns:
        A `SyncReport`, the same on every rank: true when the ranks agree; `str` of it is a
        sentence, `.differences` a list.

    Raises:
        RanksDifferError: if the ranks do not even have the same variables.

    Example:
        >>> if not (report := hvd.check_in_sync(model)):
        ...     print(report)
    """
    if not process_set.included() or process_set.size() == 1:
        return SyncReport([])
    variables = _compared(model)
    check_same_settings(describe_variables(variables), "variables", process_set)
    digests = np.stack([_digest(v) for v in variables]) if variables else np.zeros((0, 2))
    options = {"process_set": process_set}
    everyone = horovod.allgather(tf.constant(digests[None]), name="tf_lars.sync", **options)
    unequal = np.any(everyone.numpy() != everyone.numpy()[:1], axis=(0, 2))
    ranks = process_set.ranks or list(range(horovod.size()))
    differences = []
    for i in np.flatnonzero(unequal):
        value = np.asarray(tf.cast(tf.convert_to_tensor(variables[i]), tf.float64))
        first = horovod.broadcast(tf.constant(value), ranks[0], name=f"tf_lars.sync.{i}", **options)
        largest = np.max(np.abs(value - first.numpy()), initial=0.0)
        largest = horovod.allgather(
            tf.constant([largest]), name=f"tf_lars.sync.{i}.largest", **options
        )
        path = getattr(variables[i], "path", variables[i].name)
        differences += [
            (path, float(amount), rank)
            for rank, amount in zip(ranks, largest.numpy(), strict=True)
            if amount != 0  # not a number counts as different
        ]
    return SyncReport(differences)


def _compared(model):
    if not isinstance(model, keras.Model):
        return list(model)
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.trainable_variables, *_state_of(optimizer)]
    reduction = getattr(optimizer, "reduction", None)
    kept = [v for v in without_seeds(variables) if not (reduction and reduction.is_local(v))]
    return kept


def _state_of(optimizer):
    try:
        return list(optimizer.variables) if optimizer else []
    except TypeError:  # Horovod's own wrapper, which was written for Keras 2
        return []


def _digest(variable):
    value = tf.convert_to_tensor(tf_variable(variable))
    content = hashlib.sha256(np.ascontiguousarray(value.numpy()).tobytes()).digest()
    return np.frombuffer(content[:16], dtype=np.int64)


class CheckInSyncCallback(keras.callbacks.Callback):
    """Calls `check_in_sync` every n steps and stops training with its sentence if they differ.

    Args:
        every_n_steps: steps between two checks; the end of `fit` is checked as well.
        process_set: the ranks that take part.

    Raises:
        RanksDifferError: during training, on every rank.
        ValueError: if `every_n_steps` is not a positive integer.

    Example:
        >>> model.fit(x, y, callbacks=[hvd.callbacks.CheckInSyncCallback(every_n_steps=100)])
    """

    def __init__(self, every_n_steps=100, process_set=horovod.global_process_set):
        super().__init__()
        if not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise ValueError(f"every_n_steps must be a positive integer, not {every_n_steps!r}")
        self.every_n_steps, self.process_set = every_n_steps, process_set
        self._steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1
        if self._steps % self.every_n_steps == 0:
            self._check()

    def on_train_end(self, logs=None):
        self._check()

    def _check(self):
        report = check_in_sync(self.model, self.process_set)
        if not report:
            raise RanksDifferError(f"after {self._steps} steps {report}")
