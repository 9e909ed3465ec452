"""A run that is stopped and goes on remembers what its callbacks had measured, bit for bit."""

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.models import data, large, weights
from tf_lars import CLARS
from tf_lars.schedules.learning_rate import WarmupStep
from tf_lars.training.adaptive_batches import AdaptiveBatches
from tf_lars.training.adascale import AdaScale
from tf_lars.training.mean_norms import PerExampleNorms
from tf_lars.training.momentum_correction import MomentumCorrection
from tf_lars.training.noise_scale import NoiseScale


def sgd(rate=0.1):
    return keras.optimizers.SGD(rate, momentum=0.9)


def noise_scale():
    noise = NoiseScale(decay=0.9)
    return large(8, sgd()), None, [noise]


def adaptive_batches():
    noise = NoiseScale(decay=0.9)
    rows = tf.data.Dataset.from_tensor_slices(data(256))
    adaptive = AdaptiveBatches(rows, noise, 16, 256, max_batch=64, multiple_of=8)
    return large(8, sgd()), adaptive.dataset, [noise, adaptive]


def adascale():
    return large(8, sgd()), None, [AdaScale(0.1, base_batch=8, smoothing=0.9)]


def momentum_correction():
    # The rate falls at the eighth update, where the run is stopped.
    return large(8, sgd(WarmupStep(0.1, [8], 0.1))), None, [MomentumCorrection()]


def per_example():
    source = PerExampleNorms(examples=2, every=5)
    return large(8, CLARS(0.1), mean_norms=source), None, []


RUNS = (noise_scale, adaptive_batches, adascale, momentum_correction, per_example)


def stateful(model, callbacks):
    return [x for x in (*callbacks, model.mean_norms) if hasattr(x, "get_state")]


def train(run, epochs, first_epoch=0):
    model, dataset, callbacks = run
    given = {"x": dataset} if dataset is not None else dict(zip("xy", data(256), strict=True))
    size = {} if dataset is not None else {"batch_size": 64, "shuffle": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a growing batch has fewer steps in later epochs
        model.fit(
            **given, **size, epochs=epochs, initial_epoch=first_epoch, verbose=0,
            callbacks=callbacks,
        )  # fmt: skip


@pytest.mark.parametrize("build", RUNS)
def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(build, tmp_path):
    straight = build()
    train(straight, 4)

    first, second = build(), build()
    train(first, 2)
    state = json.dumps([x.get_state() for x in stateful(first[0], first[2])], allow_nan=False)
    first[0].save_weights(tmp_path / "w.weights.h5")

    model, _, callbacks = second
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "w.weights.h5")
    for x, kept in zip(stateful(model, callbacks), json.loads(state), strict=True):
        x.set_state(kept)
    train(second, 4, first_epoch=2)

    for a, b in zip(weights(straight[0]), weights(model), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(stateful(straight[0], straight[2]), stateful(model, callbacks), strict=True):
        assert a.get_state() == b.get_state()


def test_what_never_ran_has_a_state_that_sets_back():
    fresh = NoiseScale().get_state()
    used = noise_scale()
    train(used, 1)
    assert used[2][0].batch == 64
    used[2][0].set_state(fresh)
    with pytest.raises(ValueError, match="has seen no step yet"):
        used[2][0].noise()
    used = per_example()
    fresh = PerExampleNorms().get_state()
    train(used, 1)
    used[0].mean_norms.set_state(fresh)
    assert used[0].mean_norms.get_state() == {"norms": [-1.0] * 4}  # the next update probes


@pytest.mark.parametrize("build", RUNS)
def test_a_state_of_something_else_is_refused(build):
    model, _, callbacks = build()
    for x in stateful(model, callbacks):
        for wrong in ({}, {**x.get_state(), "more": 1}, [1]):
            with pytest.raises(ValueError, match=f"{type(x).__name__}.set_state needs what its"):
                x.set_state(wrong)


def test_a_batch_out_of_the_bounds_is_refused():
    _, _, (_, adaptive) = adaptive_batches()
    for batch in (12, 128):
        with pytest.raises(ValueError, match=rf"{batch}, must be a multiple of 8 and at most"):
            adaptive.set_state({"batch": batch, "history": []})


def test_averages_of_another_model_are_refused():
    _, _, (noise,) = run = noise_scale()
    noise.set_state({"moments": [[0.0] * 3] * 5, "weights": [0.0] * 3, "history": []})
    with pytest.raises(ValueError, match="averages of 2 variables, and the model trains 4"):
        train(run, 1)
