"""The noise scale on a quadratic whose answer is known, and what is built on it."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.models import data, large, plain
from tf_lars.schedules.learning_rate import WarmupStep
from tf_lars.training.adaptive_batches import AdaptiveBatches
from tf_lars.training.adascale import AdaScale, gain_ratio
from tf_lars.training.large_batch_model import LargeBatchModel
from tf_lars.training.noise_scale import Noise, NoiseScale

MEAN = np.array([0.4, -0.3, 0.2, 0.1])
DEVIATION = np.array([1.0, 2.0, 0.5, 1.0])
SQUARED, TRACE = float(np.sum(MEAN**2)), float(np.sum(DEVIATION**2))


def quadratic(optimizer=None, micro_batch_size=8):
    """½‖w − c_i‖² at w = 0: the gradient of row i is −c_i, its mean and variance are the data's."""
    inputs = keras.Input((1,))
    outputs = keras.layers.Dense(4, use_bias=False, kernel_initializer="zeros")(inputs)
    model = LargeBatchModel(inputs, outputs, micro_batch_size=micro_batch_size)
    loss = lambda y, p: keras.ops.sum(keras.ops.square(y - p), -1) / 2  # noqa: E731
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss)
    return model


def targets(rows, seed):
    rng = np.random.default_rng(seed)
    c = MEAN + DEVIATION * rng.normal(size=(rows, 4))
    return np.ones((rows, 1), "float32"), c.astype("float32")


def fit(model, rows, batch, callbacks, seed=0, epochs=1):
    x, y = targets(rows, seed)
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, callbacks=callbacks)


def test_the_noise_scale_of_a_quadratic_is_found_within_its_error():
    model, deviations = quadratic(), []
    for seed in range(12):
        noise = NoiseScale(decay=0.999)
        fit(model, 64 * 150, 64, [noise], seed)
        found = noise.noise()
        assert 0 < found.error < 0.5 * found.simple
        deviations.append((found.simple - TRACE / SQUARED) / found.error)
    assert np.abs(np.mean(deviations)) < 4 / math.sqrt(12)  # no bias beyond the error
    assert 0.4 < np.std(deviations) < 2  # and the error is of the right size


def test_a_smaller_last_micro_batch_leaves_it_unbiased():
    noise = NoiseScale(decay=0.9995)
    fit(quadratic(micro_batch_size=24), 64 * 400, 64, [noise])
    found = noise.noise()
    assert abs(found.simple - TRACE / SQUARED) < 4 * found.error


def test_layers_add_up_and_logs_tensorboard_and_plot_are_written(tmp_path):
    x, y = data(256)
    model = large(16, keras.optimizers.SGD(0.01))
    noise = NoiseScale(log_dir=tmp_path / "board")
    history = model.fit(x, y, batch_size=64, epochs=3, verbose=0, callbacks=[noise]).history
    whole, layers = noise.noise(), noise.layers()
    assert list(layers) == [v.path for v in model.trainable_variables]
    assert whole.trace == pytest.approx(sum(n.trace for n in layers.values()), rel=1e-4)
    assert whole.squared_norm == pytest.approx(
        sum(n.squared_norm for n in layers.values()), rel=1e-3, abs=1e-6
    )
    assert len(history["noise_scale"]) == 3 and noise.batch == 64
    assert [entry[0] for entry in noise.history] == [4, 8, 12]
    events = list((tmp_path / "board").glob("events*"))
    records = tf.data.TFRecordDataset([str(e) for e in events])
    text = b"".join(record.numpy() for record in records)
    assert b"noise_scale/all" in text and b"noise_scale/first/kernel" in text
    noise.plot(tmp_path / "plots" / "noise.png")
    assert (tmp_path / "plots" / "noise.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("simple", "error", "verdict"),
    [
        (100_000.0, 5_000.0, "A bigger batch would help: .* 50% fewer updates"),
        (1_000.0, 10.0, "would help a little: .* 25% fewer updates .* 50% more examples"),
        (10.0, 1.0, "would hardly help"),
        (1_000.0, 2_000.0, "does not stand out of the noise"),
    ],
)
def test_the_words_say_whether_a_bigger_batch_would_help(simple, error, verdict, monkeypatch):
    noise = NoiseScale()
    monkeypatch.setattr(NoiseScale, "batch", 1_000)
    monkeypatch.setattr(noise, "noise", lambda: Noise(1.0, simple, error))
    import re

    assert re.search(verdict, noise.words())


def test_steps_that_overflow_do_not_count():
    noise = NoiseScale(decay=0.5)
    model = quadratic()
    fit(model, 64 * 4, 64, [noise])
    before = noise.noise()
    x, y = targets(64, 1)
    y[0] = np.inf
    model.observers = [noise]
    model.train_on_batch(x, y)
    assert noise.noise() == before


def test_bad_arguments_and_plain_models_are_refused():
    with pytest.raises(ValueError, match=r"decay=1.5 must be in \[0, 1\)"):
        NoiseScale(decay=1.5)
    x, y = data(64)
    for callback in (NoiseScale(), AdaScale(0.1, 16)):
        with pytest.raises(ValueError, match="needs a LargeBatchModel"):
            plain().fit(x, y, verbose=0, callbacks=[callback])
    with pytest.raises(ValueError, match="NoiseScale: this needs gradients of parts"):
        large(None).fit(x, y, verbose=0, callbacks=[NoiseScale()])
    with pytest.raises(ValueError, match="has seen no step yet"):
        NoiseScale().noise()


# ---- growth by the norm test ------------------------------------------------------------------


def dataset(rows):
    return tf.data.Dataset.from_tensor_slices(targets(rows, 0)).repeat(2).take(rows)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_batch_grows_to_the_noise_scale_within_its_bounds():
    noise = NoiseScale(decay=0.99)
    rows = 64 * 40
    adaptive = AdaptiveBatches(
        dataset(rows), noise, 16, rows, max_batch=512, theta=0.5, multiple_of=8
    )
    quadratic(micro_batch_size=4).fit(
        adaptive.dataset, epochs=5, verbose=0, callbacks=[noise, adaptive]
    )
    wanted = TRACE / SQUARED / 0.25  # about 83
    assert adaptive.history[:3] == [16, 32, 64]
    assert 64 <= adaptive.history[-1] < 2 * wanted
    assert all(batch % 8 == 0 for batch in adaptive.history)


def test_the_next_batch_stays_in_its_bounds():
    noise = NoiseScale()
    adaptive = AdaptiveBatches(dataset(1000), noise, 20, 1000, 100, max_growth=3, multiple_of=10)
    assert adaptive.next_batch(Noise(1.0, 35.0, 1.0)) == 30
    assert adaptive.next_batch(Noise(1.0, 1e6, 1.0)) == 60
    assert adaptive.next_batch(Noise(1.0, 1.0, 0.1)) == 20
    assert adaptive.next_batch(Noise(1.0, 50.0, 80.0)) == 20
    assert adaptive.next_batch(Noise(-1.0, 50.0, math.inf)) == 20
    adaptive.batch = 90
    assert adaptive.next_batch(Noise(1.0, 1e6, 1.0)) == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 2, "workers": 4, "multiple_of": 4}, "must satisfy workers"),
        ({"max_batch": 2000}, "must satisfy workers"),
        ({"workers": 3}, "multiple_of=1 must be a multiple of the 3 workers"),
        ({"theta": 0.0}, "theta=0.0 must be above 0"),
        ({"max_growth": 1.0}, "max_growth=1.0 must be above 1"),
        ({"noise": "auto"}, "must be the NoiseScale callback"),
    ],
)
def test_bad_bounds_are_refused(change, message):
    arguments = {"noise": NoiseScale(), "batch": 20, "examples": 1000, **change}
    with pytest.raises(ValueError, match=message):
        AdaptiveBatches(dataset(1000), **arguments)


# ---- AdaScale ---------------------------------------------------------------------------------


def test_the_gain_is_between_one_and_the_scale():
    gain = lambda *a: float(gain_ratio(*map(tf.constant, a)))  # noqa: E731
    assert gain(1.0, 0.0, 8.0) == pytest.approx(8.0)  # nothing but noise: as good as 8 steps
    assert gain(0.0, 1.0, 8.0) == pytest.approx(1.0)  # no noise: the batch is wasted
    assert gain(1.0, 1.0, 8.0) == pytest.approx(2 / (1 / 8 + 1))
    assert gain(0.0, 0.0, 8.0) == 1.0
    assert gain(1.0, 1.0, 0.5) == 1.0


def test_adascale_finds_the_gain_of_the_quadratic_and_sets_rate_and_progress():
    model = quadratic(keras.optimizers.SGD(1.0))
    adascale = AdaScale(1e-9, base_batch=8, smoothing=0.99)
    fit(model, 64 * 200, 64, [adascale])
    sigma = TRACE / 8
    expected = (sigma + SQUARED) / (sigma / 8 + SQUARED)
    assert adascale.gain == pytest.approx(expected, rel=0.15)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-9 * adascale.gain, rel=1e-5)
    assert 200 < adascale.progress < 200 * 8
    assert adascale.progress == pytest.approx(200 * expected, rel=0.25)


def test_the_schedule_is_read_at_the_progress_not_at_the_update():
    model = quadratic(keras.optimizers.SGD(1.0))
    adascale = AdaScale(WarmupStep(1e-9, [30], 0.0), base_batch=8, smoothing=0.9)
    fit(model, 64 * 25, 64, [adascale])
    assert adascale.progress > 30 and int(model.optimizer.iterations) == 25
    assert float(model.optimizer.learning_rate) == 0.0


def test_training_stops_at_the_total_progress_and_goes_on_from_one():
    model = quadratic(keras.optimizers.SGD(1e-9))
    adascale = AdaScale(1e-9, 8, total_progress=50, progress=20.0)
    fit(model, 64 * 100, 64, [adascale])
    assert 50 <= adascale.progress < 58
    assert int(model.optimizer.iterations) < 30


def test_a_batch_of_the_base_size_is_plain_sgd():
    x, y = data(64)
    models = large(16, keras.optimizers.SGD(0.1)), large(16, keras.optimizers.SGD(5.0))
    adascale = AdaScale(0.1, base_batch=64)
    for model, callbacks in zip(models, ([], [adascale]), strict=True):
        model.fit(x, y, batch_size=64, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
    for a, b in zip(*(model.trainable_variables for model in models), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
    assert adascale.progress == 4


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 8), "learning_rate"),
        ((0.1, 0), "base_batch"),
        ((0.1, 8, -1), "total_progress"),
        ((0.1, 8, None, 1.0), "smoothing"),
        ((0.1, 8, None, None, -1.0), "progress"),
    ],
)
def test_bad_arguments_of_adascale_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"{name}="):
        AdaScale(*arguments)


def test_adascale_needs_a_rate_that_can_be_set():
    x, y = data(64)
    model = large(16, keras.optimizers.SGD(WarmupStep(0.1, [10])))
    with pytest.raises(ValueError, match="schedule of its own"):
        model.fit(x, y, batch_size=64, verbose=0, callbacks=[AdaScale(0.1, 16)])
