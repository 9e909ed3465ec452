"""Checks that the ranks agree: found with a message that names the rank, not with a hang."""

import functools
import hashlib
import importlib.metadata
import json
import os
import warnings

import horovod.tensorflow as horovod
import keras
import numpy as np
import tensorflow as tf

from tf_lars.horovod.watch import say


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
    if reduction.alone:
        return
    if reduction.process_set.rank() == 0 and reduction.reason:
        _say_once(reduction.in_words())
    if _elastic():
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


_say_once = functools.cache(say)


class SameFit(keras.callbacks.Callback):
    """Compares, when `fit` begins, what all ranks must have alike in it; `fit` adds it by itself.

    The steps of an epoch, where Keras knows them on every rank, and, after the first step, the
    epochs: a rank with fewer leaves the others waiting. And what the model itself says in
    `must_agree()`, a dictionary, if it has that. TF_LARS_CHECK_STEPS=0 leaves steps and epochs to a
    script that evens them out with `hvd.join`.

    Raises:
        RanksDifferError: on every rank.
    """

    def on_train_begin(self, logs=None):
        self._epochs_to_compare = False
        reduction = self.model.optimizer.reduction
        if reduction.alone or _elastic():
            return
        check_same_steps(self.params.get("steps"), reduction.process_set)
        if hasattr(self.model, "must_agree"):
            settings = self.model.must_agree()
            check_same_settings(settings, "settings of fit", reduction.process_set)
        self._epochs_to_compare = True

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # Not before: BackupAndRestore may choose the first epoch when training begins, and a model
        # that is not built on this rank is broadcast in its first step.
        if self._epochs_to_compare and os.environ.get("TF_LARS_CHECK_STEPS") != "0":
            epochs = {"first epoch": self._epoch + 1, "last epoch": self.params["epochs"]}
            check_same_settings(epochs, "epochs", self.model.optimizer.reduction.process_set)
        self._epochs_to_compare = False


def check_same_steps(steps, process_set=horovod.global_process_set, limit=8):
    """Compares the steps of an epoch (None: not known) over the ranks. A collective call."""
    mine = tf.constant([-1 if steps is None else steps], tf.int64)
    options = {"name": "tf_lars.guard.steps", "process_set": process_set}
    everyone = horovod.allgather(mine, **options).numpy().tolist()
    if os.environ.get("TF_LARS_CHECK_STEPS") == "0" or -1 in everyone or len(set(everyone)) == 1:
        return
    ranks = process_set.ranks or range(len(everyone))
    named = [f"rank {r}: {n}" for r, n in zip(ranks, everyone, strict=True)]
    more = f" and {len(named) - limit} more" if len(named) > limit else ""
    raise RanksDifferError(
        f"the ranks make different numbers of steps in an epoch ({', '.join(named[:limit])}{more}),"
        " and those with more would wait for the others for ever: give every rank the same number "
        "of batches, or pass steps_per_epoch to fit"
    )


def _elastic():
    return os.environ.get("HOROVOD_ELASTIC") == "1"


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
