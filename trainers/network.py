"""The network of a run: a new one, or a new last layer behind one that is frozen."""

import pathlib

import keras

from trainers.errors import ConfigError
from trainers.models import MODELS
from trainers.models.layers import logits
from trainers.precision import precision


def network(config, image_shape, classes):
    """The network that `config` names, not compiled.

    Raises:
        ConfigError: the images do not fit it, or --probe_of holds no such network.
    """
    with precision(config.mixed_precision):
        try:
            model = MODELS[config.model](image_shape, classes)
        except ValueError as error:
            size = "×".join(map(str, image_shape))
            raise ConfigError(f"--model={config.model} for images of {size}: {error}") from error
        return linear_probe(config, model, classes) if config.probe_of else model


def load_network(path):
    """The network in a .keras file, not compiled."""
    return keras.models.load_model(path, compile=False)


def linear_probe(config, like, classes):
    """The network in the file --probe_of, frozen, with a new last layer: the only one that trains.

    BatchNorm without scale and shift stands before it (He et al. 2021, arXiv 2111.06377, appendix
    A.1), so that the rate does not depend on the size of the features.

    Args:
        config: the TrainConfig.
        like: a network of the kind that the file must hold; the number of its classes may differ.
        classes: number of outputs, logits.
    """
    file = pathlib.Path(config.probe_of)
    if not file.is_file():
        raise ConfigError(f"--probe_of={file} is no file: give a network, FILE.keras.")
    try:
        frozen = load_network(file)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"--probe_of={file} cannot be loaded: {reason}") from error
    last = _last_dense(frozen)
    if _shapes(frozen, last) != _shapes(like, _last_dense(like)):
        raise ConfigError(
            f"--probe_of={file} does not hold a network of --model={config.model} for images of "
            f"{'×'.join(map(str, like.input_shape[1:]))}."
        )
    frozen.trainable = False
    features = keras.layers.BatchNormalization(
        center=False, scale=False, epsilon=1e-6, name="probe_bn"
    )(last.input)
    return keras.Model(frozen.inputs, logits(features, classes), name=f"{frozen.name}_probe")


def _last_dense(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][-1]


def _shapes(model, last):
    """The shapes of the input and of all weights but those of the last layer."""
    own = {id(weight) for weight in last.weights}
    return [model.input_shape, *(w.shape for w in model.weights if id(w) not in own)]
