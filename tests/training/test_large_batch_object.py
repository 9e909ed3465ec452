"""The large-batch model as an object: wrapping, saving, the arguments of fit, and refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.models import (
    assert_same_weights,
    data,
    large,
    plain,
    tensors,
)
from tf_lars.optimizers import LARS
from tf_lars.training.large_batch_model import LargeBatchModel, large_batch
from tf_lars.training.mean_norms import PerExampleNorms


def fit(model, x, y, batch, epochs=1, **kwargs):
    model.fit(x, y, batch_size=batch, epochs=epochs, shuffle=False, verbose=0, **kwargs)
    return model


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.dense(x)


def existing_models():
    functional = keras.Model(*tensors())
    sequential = keras.Sequential([keras.Input((12,)), keras.layers.Dense(4)])
    return [functional, sequential, Subclassed()]


@pytest.mark.parametrize("kind", range(3), ids=["functional", "sequential", "subclassed"])
def test_a_wrapped_model_trains_as_before_and_saves_as_itself(kind, tmp_path):
    model, own = existing_models()[kind], type(existing_models()[kind])
    x, y = data(100)
    model(x)
    other = existing_models()[kind]
    other(x)
    other.set_weights(model.get_weights())
    for each in (large_batch(model, micro_batch_size=32), other):
        each.compile(
            keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        fit(each, x, y, 100, 3)
    assert_same_weights(other, model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"Subclassed": Subclassed}
    )
    assert type(loaded) is own
    np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))


def test_wrapping_after_compile_works():
    x, y = data(100)
    assert_same_weights(fit(plain(), x, y, 100, 3), fit(large_batch(plain(), 32), x, y, 100, 3))


def test_saving_and_loading_goes_on_where_it_stopped(tmp_path):
    x, y = data(128)
    model = fit(large(16, LARS(0.5, 0.9)), x, y, 64, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, LargeBatchModel) and loaded.micro_batch_size == 16
    assert_same_weights(fit(model, x, y, 64, 2), fit(loaded, x, y, 64, 2), tolerance=0)


@pytest.mark.parametrize("source", ["two_batch", PerExampleNorms(4, 7)])
def test_the_source_of_mean_norms_is_saved(source):
    model = large(8, mean_norms=source)
    copied = LargeBatchModel.from_config(model.get_config())
    assert copied.get_config()["mean_norms"] == model.get_config()["mean_norms"]
    assert copied.micro_batch_size == 8


def test_arguments_of_fit_may_be_positional():
    x, y = data(64)
    steps = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: steps.append(b))
    large(16).fit(x, y, 32, 2, 0, [callback])
    assert len(steps) == 4


def test_callbacks_see_every_step():
    steps = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: steps.append(logs))
    x, y = data(128)
    fit(large(16), x, y, 64, 2, callbacks=[callback])
    assert len(steps) == 4 and all({"loss", "accuracy"} <= set(logs) for logs in steps)


@pytest.mark.parametrize("size", [0, -3, 2.0, True, "8"])
def test_a_bad_micro_batch_size_is_refused(size):
    with pytest.raises(ValueError, match="micro_batch_size="):
        LargeBatchModel(*tensors(), micro_batch_size=size)


def test_a_micro_batch_larger_than_the_batch_is_refused_before_training():
    x, y = data(128)
    with pytest.raises(ValueError, match=r"micro_batch_size=64 is larger than .* 32 rows"):
        large(64).fit(x, y, batch_size=32, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)
    with pytest.raises(ValueError, match="micro_batch_size=64 is larger"):
        large(64).fit(dataset, verbose=0)


@pytest.mark.parametrize("reduction", ["sum", None])
def test_a_loss_that_is_no_mean_is_refused(reduction):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    x, y = data(16)
    with pytest.raises(ValueError, match="needs a mean"):
        large(8, loss=loss).fit(x, y, verbose=0)


def test_other_backends_are_refused(monkeypatch):
    inputs, outputs = tensors()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="TensorFlow backend, not on 'jax'"):
        LargeBatchModel(inputs, outputs)


def test_only_models_are_wrapped_and_only_once():
    with pytest.raises(ValueError, match=r"must be a keras\.Model"):
        large_batch("resnet")
    with pytest.raises(ValueError, match="already"):
        large_batch(large(8), 4)
