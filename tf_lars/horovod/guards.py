"""Checks that the ranks agree: found with a message that names the rank, not with a hang."""

import hashlib
import importlib.metadata
import json
import os
import warnings

import horovod.tensorflow as horovod
import keras
import numpy as np
import tensorflow as tf

from tf_lars.horovod.variables import tf_variable, without_seeds


class RanksDifferError(RuntimeError):
    """Ranks that must agree do not; the message names the first that differs, and in what."""


def check_same_settings(settings, what="settings", process_set=horovod.global_process_set):
    """Compares a rank's settings with those of the other ranks. A collective call: every rank.

    Args:
        settings: dictionary of names and values; values are compared as their JSON or `repr`.
        what: what they are, for the message.
        process_set: the ranks that take part.

    Raises:
        RanksDifferError: on every rank, if they differ: "rank 1 has other settings than rank 0:
            batch_size is 64, not 32".

    Example:
        >>> hvd.check_same_settings({"batch_size": 32, "epochs": 90})
    """
    if not process_set.included() or process_set.size() == 1:
        return
    mine = {str(name): _plain(value) for name, value in settings.items()}
    if _agree(json.dumps(mine), what, process_set):
        return
    name = f"tf_lars.guard.{what}"
    everyone = horovod.allgather_object(mine, name=name, process_set=process_set)
    ranks = process_set.ranks or range(len(everyone))
    for rank, theirs in zip(ranks, everyone, strict=True):
        differences = _differences(everyone[0], theirs)
        if differences:
            raise RanksDifferError(
                f"rank {rank} has other {what} than rank {ranks[0]}: {'; '.join(differences)}"
            )


def _plain(value):
    """A value as something that compares the same when it means the same."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return repr(value)


def _agree(text, what, process_set):
    """Compares one digest a rank: all that is sent as long as nothing is wrong."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype=np.int64)
    name = f"tf_lars.guard.digest.{what}"
    everyone = horovod.allgather(tf.constant(digest[None]), name=name, process_set=process_set)
    return bool(tf.reduce_all(everyone == everyone[:1]))


def _differences(first, other, limit=3):
    found = []
    for name in [*first, *(name for name in other if name not in first)]:
        if name not in other:
            found.append(f"{name} is missing (rank 0: {first[name]})")
        elif name not in first:
            found.append(f"{name} is {other[name]}, which rank 0 does not have")
        elif first[name] != other[name]:
            found.append(f"{name} is {other[name]}, not {first[name]}")
    return found if len(found) <= limit else [*found[:limit], f"and {len(found) - limit} more"]


def versions():
    """What must be of one version on all ranks."""
    import tf_lars

    found = {"TensorFlow": tf.__version__, "Keras": keras.__version__}
    for name in ("horovod", "tf-lars"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = getattr(tf_lars, "__version__", "not installed")
    return found


def describe_variables(variables):
    """Position, shape and type of each variable; names may differ between ranks."""
    described = {"number of variables": len(variables)}
    for i, variable in enumerate(variables):
        kind = f"{variable.shape} {tf.as_dtype(variable.dtype).name}"
        described[f"variable {i}"] = kind
    return described


def check_first_step(reduction, variables, gradients, settings):
    """Before the first reduction: versions, variables, gradients and settings are compared.

    Not in elastic jobs, where ranks come later than others.
    """
    if reduction.alone or os.environ.get("HOROVOD_ELASTIC") == "1":
        return
    described = describe_variables(variables)
    for i, gradient in enumerate(gradients):
        described[f"gradient {i}"] = _kind(gradient)
    with tf.init_scope():  # a collective now, not in the graph being built
        for what, values in (
            ("versions", versions()),
            ("variables", described),
            ("optimizer settings", settings | reduction.described()),
        ):
            check_same_settings(values, what, reduction.process_set)


def _kind(gradient):
    if gradient is None:
        return "missing"
    return "sparse" if isinstance(gradient, tf.IndexedSlices) else "dense"


def optimizer_settings(optimizer, variables):
    """What a distributed optimizer must have the same on all ranks.

    Exclusions and multipliers by what they do to each variable: they may name paths, which may
    differ between ranks.
    """
    try:
        with tf.init_scope():  # it reads variables, which a graph being built cannot
            config = optimizer.get_config()
    except (TypeError, ValueError, NotImplementedError):
        config = {}  # one that cannot be saved can still be trained with
    config.pop("name", None)  # Keras counts its names up
    config = {
        name: value
        for name, value in config.items()
        if not name.startswith("exclude_from_") and name != "learning_rate_multipliers"
    }
    if not isinstance(config.get("learning_rate"), dict):
        config.pop("learning_rate", None)  # a variable, which is broadcast
    return {
        "optimizer": optimizer.own_class.__name__,
        **_flattened(config),
        **_flattened(_resolved_masks(optimizer, variables)),
        "backward passes added up": optimizer.passes_factor,
    }


def _resolved_masks(optimizer, variables):
    masks = getattr(optimizer, "_masks", None)  # those of tf_lars's optimizers
    if masks is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer's build says what covers nothing
        return {f"variable {i}": fields for i, fields in enumerate(masks.resolve(variables))}


def _flattened(config, prefix=""):
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flattened(value, f"{prefix}{name}.")
        elif name != "name":
            flat[prefix + name] = value
    return flat


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
