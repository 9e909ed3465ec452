"""Small models and data for the tests of the training step."""

import keras
import numpy as np

from tf_lars.training.large_batch_model import LargeBatchModel


def data(rows=256, seed=0, features=12, classes=4):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(rows, features)).astype("float32"),
        rng.integers(0, classes, rows).astype("int32"),
    )


def tensors(norm=None, features=12, classes=4, seed=3):
    """Inputs and outputs of a two-layer network, with the layer `norm()` gives in between."""
    initializer = keras.initializers.GlorotUniform(seed)
    inputs = keras.Input((features,))
    x = keras.layers.Dense(16, kernel_initializer=initializer, name="first")(inputs)
    if norm is not None:
        x = norm()(x)
    x = keras.layers.Activation("tanh")(x)
    last = keras.layers.Dense(
        classes, kernel_initializer=keras.initializers.GlorotUniform(seed + 1), name="last"
    )
    return inputs, last(x)


def large(micro_batch_size=None, optimizer=None, norm=None, mean_norms="microbatch", **compiled):
    model = LargeBatchModel(
        *tensors(norm), micro_batch_size=micro_batch_size, mean_norms=mean_norms
    )
    return compile_(model, optimizer, **compiled)


def plain(optimizer=None, norm=None, **compiled):
    return compile_(keras.Model(*tensors(norm)), optimizer, **compiled)


def compile_(model, optimizer=None, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer if optimizer is not None else keras.optimizers.SGD(0.1, momentum=0.9),
        **{"loss": loss, "metrics": ["accuracy"], **arguments},
    )
    return model


def weights(model):
    return [np.array(w) for w in model.get_weights()]


def assert_same_weights(left, right, tolerance=1e-5):
    for variable, a, b in zip(left.weights, weights(left), weights(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=variable.path)
