"""Loading a saved model so that training goes on over all ranks.

A model that was compiled with a distributed optimizer is saved with the plain one, so
`keras.models.load_model` loads it anywhere; `load_model` here makes the optimizer distributed
again.
"""

import json
import types
import zipfile

import horovod.tensorflow as horovod
import keras

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
    objects = {}
    for cls in custom_optimizers or []:
        objects[cls.__name__] = objects[keras.saving.get_registered_name(cls)] = cls
    objects |= custom_objects or {}
    for name in _optimizer_names(filepath) & objects.keys():
        if isinstance(objects[name], types.FunctionType):
            objects[name] = _class_made_by(objects[name])
    model = keras.models.load_model(filepath, custom_objects=objects, safe_mode=safe_mode)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not isinstance(optimizer, Distributed):
        model.optimizer = DistributedOptimizer(optimizer, compression=compression)
        keras_hooks.adapt(model)
    return model


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
    import h5py

    if isinstance(filepath, h5py.File):
        return filepath.attrs["training_config"]
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
