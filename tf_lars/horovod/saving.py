"""Loading a saved model so that training goes on over all ranks.

A model that was compiled with a distributed optimizer is saved with the plain one, so
`keras.models.load_model` loads it anywhere; `load_model` here makes the optimizer distributed
again.
"""

import json
import types
import zipfile

import h5py
import horovod.tensorflow as horovod
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format

from tf_lars.horovod import keras_hooks
from tf_lars.horovod.distributed import Distributed
from tf_lars.horovod.optimizer import DistributedOptimizer


def load_model(
    filepath,
    custom_optimizers=None,
    custom_objects=None,
    compression=horovod.Compression.none,
    legacy_opts=False,
    safe_mode=True,
):
    """Loads a model and makes its optimizer distributed; the optimizer's state is kept.

    Args:
        filepath: path of a `.keras` or HDF5 file, or an open `h5py.File`.
        custom_optimizers: list of optimizer classes that the file may name.
        custom_objects: dictionary of names and the classes or functions they stand for. A
            function in the place of an optimizer's class is called with the configuration and
            may return a distributed optimizer with settings of its own.
        compression: `compression` of the distributed optimizer.
        legacy_opts: must stay False: Keras 3 has no legacy optimizers.
        safe_mode: Keras's; False allows the file to hold lambdas.

    Returns:
        The model; without an optimizer if it was saved without.

    Raises:
        ValueError: for `legacy_opts=True`, or a file that Keras cannot load.
    """
    if legacy_opts:
        raise ValueError("legacy_opts=True: Keras 3 has no legacy optimizers, leave it away")
    filepath = getattr(filepath, "filename", filepath)
    objects = {}
    for cls in custom_optimizers or []:
        objects[cls.__name__] = objects[keras.saving.get_registered_name(cls)] = cls
    objects |= custom_objects or {}
    for name in _optimizer_names(filepath) & objects.keys():
        if isinstance(objects[name], types.FunctionType):
            objects[name] = _class_made_by(objects[name])
    in_hdf5 = not zipfile.is_zipfile(filepath)
    if in_hdf5:
        objects = _abbreviated_losses() | objects
    model = keras.models.load_model(filepath, custom_objects=objects, safe_mode=safe_mode)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return model
    if in_hdf5:
        optimizer = _with_state_from_hdf5(optimizer, model, filepath)
    if not isinstance(optimizer, Distributed):
        optimizer = DistributedOptimizer(optimizer, compression=compression)
    model.optimizer = optimizer
    keras_hooks.adapt(model)
    return model


def _abbreviated_losses():
    """The losses that `compile` knows by an abbreviation and Keras does not find in HDF5 files."""
    return {name: keras.losses.get(name) for name in ("mse", "mae", "mape", "msle", "bce", "kld")}


def _with_state_from_hdf5(optimizer, model, filepath):
    """The optimizer with its saved state, for which Keras 3 builds it without any variable."""
    with h5py.File(filepath, "r") as file:
        if "optimizer_weights" not in file:
            return optimizer
        state = [np.array(v) for v in legacy_h5_format.load_optimizer_weights_from_hdf5_group(file)]
    optimizer = type(optimizer).from_config(optimizer.get_config())
    optimizer.build(model.trainable_variables)
    for variable, value in zip(optimizer.variables, state, strict=True):
        variable.assign(value)
    return optimizer


def _optimizer_names(filepath):
    """The class names in the saved optimizer's configuration."""
    try:
        if zipfile.is_zipfile(filepath):
            with zipfile.ZipFile(filepath) as archive:
                config = json.loads(archive.read("config.json"))
            return set(_class_names((config.get("compile_config") or {}).get("optimizer")))
        return set(_class_names(json.loads(_training_config(filepath))["optimizer_config"]))
    except (OSError, KeyError, TypeError):
        return set()  # not compiled, or not a model: Keras says so better


def _training_config(filepath):
    with h5py.File(filepath, "r") as file:
        return file.attrs["training_config"]


def _class_names(config):
    if isinstance(config, dict):
        for key, value in config.items():
            if key in ("class_name", "registered_name") and isinstance(value, str):
                yield value
            else:
                yield from _class_names(value)


def _class_made_by(factory):
    """Keras asks a class for an object; this one asks the function."""

    def from_config(cls, config):
        rate = config.get("learning_rate")
        if isinstance(rate, dict):
            rate = keras.saving.deserialize_keras_object(rate)
        return factory(**config | {"learning_rate": rate})

    return type(factory.__name__, (), {"from_config": classmethod(from_config)})
