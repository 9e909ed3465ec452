"""The large-batch step: any split of a batch gives the same numbers, in every setting of fit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.models import (
    assert_same_weights,
    data,
    large,
    plain,
    weights,
)
from tf_lars.optimizers import LARS
from tf_lars.training.ghost_batch_norm import GhostBatchNormalization
from tf_lars.training.large_batch_model import LargeBatchModel, large_batch


def ghost():
    return GhostBatchNormalization(32)


def fit(model, x, y, batch, epochs=1, **kwargs):
    model.fit(x, y, batch_size=batch, epochs=epochs, shuffle=False, verbose=0, **kwargs)
    return model


@pytest.mark.parametrize("norm", [None, ghost], ids=["no_norm", "ghost_norm"])
@pytest.mark.parametrize("make", [lambda: None, lambda: LARS(0.5, 0.9)], ids=["sgd", "lars"])
def test_twenty_steps_do_not_depend_on_the_number_of_micro_batches(norm, make):
    x, y = data(256 * 4)
    whole = fit(plain(make(), norm), x, y, 256, epochs=5)
    for size in (None, 32):
        assert_same_weights(whole, fit(large(size, make(), norm), x, y, 256, epochs=5))


def test_batch_norm_in_micro_batches_equals_ghost_batch_norm_in_one():
    x, y = data(512)
    whole = fit(plain(norm=ghost), x, y, 256, epochs=3)
    parts = fit(large(32, norm=keras.layers.BatchNormalization), x, y, 256, epochs=3)
    assert_same_weights(whole, parts)


def test_a_smaller_last_micro_batch_counts_by_its_rows():
    x, y = data(100)
    assert_same_weights(fit(plain(), x, y, 100, 5), fit(large(32), x, y, 100, 5))


def test_a_smaller_last_batch_of_an_epoch_works():
    x, y = data(300)
    assert_same_weights(fit(plain(), x, y, 128, 3), fit(large(64), x, y, 128, 3))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_sample_weights_give_the_gradient_of_the_weighted_batch(reduction):
    x, y = data(100)
    sample_weight = np.random.default_rng(1).uniform(0, 3, 100).astype("float32")
    sample_weight[64:96] = 0.0
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    whole, parts = plain(loss=loss), large(32, loss=loss)
    for model in (whole, parts):
        fit(model, x, y, 100, 5, sample_weight=sample_weight)
    assert_same_weights(whole, parts)


def test_class_weights_count():
    x, y = data(100)
    weight = {0: 1.0, 1: 5.0, 2: 0.5, 3: 2.0}
    assert_same_weights(
        fit(plain(), x, y, 100, 5, class_weight=weight),
        fit(large(32), x, y, 100, 5, class_weight=weight),
    )


def test_loss_and_metrics_are_those_of_the_whole_batch():
    x, y = data(200)
    logs = [
        model.train_on_batch(x, y, return_dict=True) for model in (plain(), large(64), large(7))
    ]
    for log in logs[1:]:
        assert log == pytest.approx(logs[0], rel=1e-5)
    assert set(logs[0]) == {"loss", "accuracy"}


def test_evaluate_and_predict_are_keras_own():
    x, y = data(100)
    whole, parts = plain(), large(16)
    assert parts.evaluate(x, y, verbose=0) == pytest.approx(whole.evaluate(x, y, verbose=0))
    np.testing.assert_allclose(
        parts.predict(x, verbose=0), whole.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_the_number_of_micro_batches_may_change_without_a_new_trace():
    model, traces = large(16), []

    def batches():
        for rows in (32, 160, 16, 100, 320):
            yield data(rows)

    own_step = model.train_step

    def train_step(data):
        traces.append(data)
        return own_step(data)

    model.train_step = train_step
    signature = (tf.TensorSpec([None, 12], tf.float32), tf.TensorSpec([None], tf.int32))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    model.fit(dataset.take(1), verbose=0)
    first = len(traces)
    model.fit(dataset, epochs=2, verbose=0)
    assert len(traces) == first
    assert (
        int(model.optimizer.iterations) == 11
    )  # Keras's own step would count the ends of the data


def test_several_steps_in_one_execution_give_the_same():
    x, y = data(256)
    assert_same_weights(
        fit(plain(), x, y, 64, 3), fit(large(16, steps_per_execution=4), x, y, 64, 3)
    )


def test_eager_and_graph_agree():
    x, y = data(64)
    assert_same_weights(fit(large(16), x, y, 64, 2), fit(large(16, run_eagerly=True), x, y, 64, 2))


def test_xla_compiles_the_micro_batch_and_gives_the_same():
    x, y = data(100)
    compiled = large(32, norm=keras.layers.BatchNormalization, jit_compile=True)
    fit(compiled, x, y, 100, 3)
    assert compiled.jit_compile
    plain_step = large(32, norm=keras.layers.BatchNormalization)
    assert_same_weights(fit(plain_step, x, y, 100, 3), compiled)


def test_gradients_accumulate_in_float32_whatever_the_type_of_the_model():
    """Where a sum in bfloat16 would stop: its 257th term of equal size is lost."""
    inputs = keras.Input((1,), dtype="bfloat16")
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", dtype="bfloat16")(
        inputs
    )
    model = LargeBatchModel(inputs, outputs, micro_batch_size=1)
    model.compile(keras.optimizers.SGD(1.0), lambda y, p: -p)
    model.train_on_batch(np.ones((1024, 1), "float32"), np.ones((1024, 1), "float32"))
    assert float(model.get_weights()[0].astype("float32")[0, 0]) == pytest.approx(1.0, rel=0.01)


def test_mixed_precision_with_loss_scaling_trains_and_skips_overflow_whole():
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    keras.config.set_dtype_policy(policy)
    try:
        model = large(16, norm=keras.layers.BatchNormalization)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    x, y = data(64)
    fit(model, x, y, 64, 3)
    reference = fit(large(16, norm=keras.layers.BatchNormalization), x, y, 64, 3)
    assert_same_weights(reference, model, tolerance=5e-3)
    before, scale = weights(model), float(model.optimizer.dynamic_scale)
    x[0] = 1e30  # one micro-batch of the four overflows
    fit(model, x, y, 64)
    trained = [v.path for v in model.trainable_variables]
    for variable, old in zip(model.weights, before, strict=True):
        if variable.path in trained:
            np.testing.assert_array_equal(old, np.array(variable))
    assert float(model.optimizer.dynamic_scale) == scale / 2


def test_an_embedding_row_used_in_several_micro_batches_adds_up():
    def network():
        inputs = keras.Input((3,), dtype="int32")
        embedding = keras.layers.Embedding(
            5, 4, embeddings_initializer=keras.initializers.GlorotUniform(1)
        )
        x = keras.layers.Flatten()(embedding(inputs))
        kernel = keras.initializers.GlorotUniform(2)
        return inputs, keras.layers.Dense(1, kernel_initializer=kernel)(x)

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (40, 3)), rng.normal(size=(40, 1)).astype("float32")
    models = keras.Model(*network()), LargeBatchModel(*network(), micro_batch_size=8)
    for model in models:
        model.compile(keras.optimizers.SGD(0.1), "mse")
        fit(model, x, y, 40, 3)
    assert_same_weights(*models)


def test_several_inputs_outputs_and_regularisers():
    def network():
        kernels = [keras.initializers.GlorotUniform(s) for s in (1, 2)]
        inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
        x = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
        outputs = {
            "left": keras.layers.Dense(
                1, name="left", kernel_initializer=kernels[0], kernel_regularizer="l2"
            )(x),
            "right": keras.layers.Dense(2, name="right", kernel_initializer=kernels[1])(x),
        }
        return inputs, outputs

    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype("float32")  # noqa: E731
    x, y = {"a": draw(50, 3), "b": draw(50, 2)}, {"left": draw(50, 1), "right": draw(50, 2)}
    models = keras.Model(*network()), LargeBatchModel(*network(), micro_batch_size=8)
    for model in models:
        model.compile(keras.optimizers.SGD(0.1), {"left": "mse", "right": "mae"})
        fit(model, x, y, 50, 3)
    assert_same_weights(*models)


def test_a_variable_without_gradient_is_left_alone():
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.unused = keras.layers.Dense(1), keras.layers.Dense(1)

        def build(self, shape):
            self.used.build(shape)
            self.unused.build(shape)

        def call(self, x):
            return self.used(x)

    model = large_batch(Unused(), micro_batch_size=8)
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), "mse")
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.train_on_batch(np.ones((16, 3), "float32"), np.ones((16, 1), "float32"))
    assert np.all(np.isfinite(np.array(model.used.kernel)))
