"""GhostBatchNormalization: each virtual batch is normalized as a batch of its own."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from tf_lars.training.ghost_batch_norm import GhostBatchNormalization


def _numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(2, 3, shape).astype("float32")


def _one_after_another(x, sizes, mask=None, **options):
    """What Keras's layer gives when the virtual batches come as steps of their own."""
    layer = keras.layers.BatchNormalization(**options)
    edges = np.cumsum([0, *sizes])
    outputs = [
        layer(x[a:b], training=True, mask=None if mask is None else mask[a:b])
        for a, b in itertools.pairwise(edges)
    ]
    return np.concatenate([ops.convert_to_numpy(output) for output in outputs]), layer


@pytest.mark.parametrize(
    ("rows", "n", "sizes"),
    [
        (12, 4, [4, 4, 4]),
        (4, 4, [4]),
        (3, 8, [3]),
        (10, 4, [4, 4, 2]),
        (9, 8, [5, 4]),
        (65, 32, [22, 22, 21]),
    ],
)
def test_outputs_and_moving_statistics_are_those_of_the_virtual_batches_in_turn(rows, n, sizes):
    x = _numbers(rows, 5, 3)
    options = {"momentum": 0.7, "beta_initializer": "ones"}
    options["gamma_initializer"] = keras.initializers.RandomUniform(seed=1)
    layer = GhostBatchNormalization(n, **options)
    outputs = layer(x, training=True)
    expected, one = _one_after_another(x, sizes, **options)
    assert np.allclose(outputs, expected, atol=1e-4)
    for ours, theirs in zip(layer.weights, one.weights, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-5), ours.name


def test_channels_may_be_on_another_axis():
    x = _numbers(6, 3, 4, 4)
    outputs = GhostBatchNormalization(3, axis=1)(x, training=True)
    expected, _ = _one_after_another(x, [3, 3], axis=1)
    assert np.allclose(outputs, expected, atol=1e-4)


def test_masked_positions_do_not_count():
    x, mask = _numbers(6, 4, 3), np.random.default_rng(1).uniform(size=(6, 4)) < 0.7
    layer = GhostBatchNormalization(3, momentum=0.5)
    outputs = ops.convert_to_numpy(layer(x, training=True, mask=mask))
    expected, one = _one_after_another(x, [3, 3], mask, momentum=0.5)
    assert np.allclose(outputs[mask], expected[mask], atol=1e-4)
    assert np.allclose(layer.moving_variance, one.moving_variance, rtol=1e-5)


def test_inference_uses_the_moving_statistics():
    x = _numbers(8, 3)
    layer = GhostBatchNormalization(4, momentum=0.0)
    layer(x, training=True)
    expected = (x - x[4:].mean(0)) / np.sqrt(x[4:].var(0) + layer.epsilon)
    assert np.allclose(layer(x), expected, atol=1e-5)
    layer.trainable = False
    assert np.allclose(layer(x, training=True), expected, atol=1e-5)


def test_half_precision_inputs_have_float32_statistics():
    layer = GhostBatchNormalization(4, momentum=0.0, dtype="mixed_bfloat16")
    x = ops.cast(_numbers(8, 3) + 100, "bfloat16")
    outputs = layer(x, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    exact = ops.convert_to_numpy(ops.cast(x, "float32"))[4:].astype("float64")
    assert np.allclose(layer.moving_variance, exact.var(0), rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_trains_and_saves_also_compiled_by_xla(jit_compile, tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4), GhostBatchNormalization(8, momentum=0.5)]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=jit_compile)
    x = _numbers(40, 3)
    losses = model.fit(x, x.sum(1), batch_size=20, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].virtual_batch_size == 8
    assert np.allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"virtual_batch_size": 0}, "virtual_batch_size is 1 or more, got 0"),
        ({"virtual_batch_size": 2.0}, "virtual_batch_size is 1 or more, got 2.0"),
        ({"renorm": True}, "has no renorm"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GhostBatchNormalization(**options)


def test_channels_on_the_batch_axis_are_refused():
    with pytest.raises(ValueError, match="axis 0 is the batch"):
        GhostBatchNormalization(2, axis=0).build((4, 3))
