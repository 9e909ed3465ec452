"""LARC around other optimizers: what it takes over, hands on, saves and refuses."""

import json

import keras
import numpy as np
import pytest

from tests.optimizers.reference import norm
from tests.optimizers.test_contract import (
    apply_under_loss_scaling,
    numpy_of,
    random_run,
    small_model,
    steps,
)
from tf_lars import LAMB, LARC, LARS
from tf_lars.optimizers.larc import KERAS_SETTINGS

INNERS = {
    "Adadelta": lambda: keras.optimizers.Adadelta(0.5),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.1),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "Adam": lambda: keras.optimizers.Adam(0.1, amsgrad=True),
    "Adamax": lambda: keras.optimizers.Adamax(0.1),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "Lamb": lambda: keras.optimizers.Lamb(0.1),
    "Lion": lambda: keras.optimizers.Lion(0.1),
    "Muon": lambda: keras.optimizers.Muon(0.1, weight_decay=None, adam_weight_decay=None),
    "Nadam": lambda: keras.optimizers.Nadam(0.1),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.1, centered=True),
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "LARS": lambda: LARS(0.1, weight_decay=0.01),
    "LAMB": lambda: LAMB(0.1, weight_decay=0.01),
}


def by_hand(w, g, rate, decay=0.0, eta=0.02, clip=True):
    """λ(g + βw) for a kernel, g for a bias."""
    if w.ndim < 2:
        return g
    ratio = eta * norm(w) / (norm(g) + decay * norm(w) + 1e-8)
    return np.float32((min(ratio / rate, 1.0) if clip else ratio) * (g + decay * w))


def assert_same(actual, expected, rtol=2e-6):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", INNERS)
def test_any_optimizer_steps_as_it_would_on_gradients_scaled_by_hand(name):
    starts, gradients = random_run(3)
    alone, wrapped = INNERS[name](), LARC(INNERS[name](), weight_decay=0.05)
    variables = [keras.Variable(start, name=f"w{k}") for k, start in enumerate(starts)]
    for each in gradients:
        scaled = [
            by_hand(w, g, 0.5 if name == "Adadelta" else 0.1, 0.05)
            for w, g in zip(numpy_of(variables), each, strict=True)
        ]
        alone.apply([keras.ops.convert_to_tensor(g) for g in scaled], variables)
    assert_same(steps(wrapped, starts, gradients), numpy_of(variables), 1e-5)
    assert int(wrapped.iterations) == int(wrapped.optimizer.iterations) == 3


def test_the_inner_optimizers_decoupled_decay_becomes_the_decay_of_the_gradient():
    starts, gradients = random_run(3)
    from_inner = LARC(keras.optimizers.AdamW(0.1, weight_decay=0.05))
    given = LARC(keras.optimizers.Adam(0.1), weight_decay=0.05)
    assert from_inner.weight_decay == 0.05
    assert_same(steps(from_inner, starts, gradients), steps(given, starts, gradients))


def test_a_decay_within_the_inner_rule_stays_there():
    assert LARC(LARS(0.1, weight_decay=0.05)).weight_decay == 0.0


class TestSettings:
    def test_keras_settings_move_from_the_inner_optimizer_to_larc(self):
        given = {
            "clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3,
            "loss_scale_factor": 8.0, "gradient_accumulation_steps": 2,
        }  # fmt: skip
        larc = LARC(keras.optimizers.SGD(0.1, **given))
        for name, default in KERAS_SETTINGS.items():
            assert getattr(larc, name) == given.get(name, default)
            assert getattr(larc.optimizer, name) == default

    def test_clipping_comes_before_the_transform(self):
        starts, gradients = random_run(2)
        clipped = [[g * min(1.0, 0.5 / norm(g)) for g in each] for each in gradients]
        actual = steps(LARC(keras.optimizers.SGD(0.1, clipnorm=0.5)), starts, gradients)
        assert_same(actual, steps(LARC(keras.optimizers.SGD(0.1)), starts, clipped))

    @pytest.mark.parametrize("inner", [keras.optimizers.SGD, keras.optimizers.Adam])
    def test_accumulated_gradients_are_transformed_once_as_their_mean(self, inner):
        starts, gradients = random_run(6)
        means = [
            [(a + b) / 2 for a, b in zip(gradients[k], gradients[k + 1], strict=True)]
            for k in (0, 2, 4)
        ]
        larc = LARC(inner(0.1, gradient_accumulation_steps=2))
        assert_same(steps(larc, starts, gradients), steps(LARC(inner(0.1)), starts, means))
        assert int(larc.iterations) == int(larc.optimizer.iterations) == 3

    def test_the_average_of_the_weights_is_put_in_place_at_the_end(self):
        starts, gradients = random_run(3)
        larc = LARC(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
        variables = [keras.Variable(start) for start in starts]
        average = None
        for each in gradients:
            larc.apply([keras.ops.convert_to_tensor(g) for g in each], variables)
            now = numpy_of(variables)
            average = now if average is None else [
                0.5 * a + 0.5 * w for a, w in zip(average, now, strict=True)
            ]  # fmt: skip
        larc.finalize_variable_values(variables)
        assert_same(numpy_of(variables), average)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_under_loss_scaling_a_step_with_a_bad_gradient_is_skipped_whole(self, bad):
        starts, gradients = random_run(2)
        larc = LARC(keras.optimizers.Adam(0.1))
        optimizer = keras.optimizers.LossScaleOptimizer(larc, initial_scale=64.0)
        variables = [keras.Variable(start) for start in starts]
        optimizer.build(variables)
        apply_under_loss_scaling(optimizer, [64 * g for g in gradients[0]], variables)
        before = numpy_of(variables + larc.variables)
        poisoned = [64 * g for g in gradients[1]]
        poisoned[0][0, 0] = bad
        apply_under_loss_scaling(optimizer, poisoned, variables)
        for a, b in zip(before, numpy_of(variables + larc.variables), strict=True):
            np.testing.assert_array_equal(a, b)
        expected = steps(LARC(keras.optimizers.Adam(0.1)), starts, gradients[:1])
        assert_same(numpy_of(variables), expected)


class TestLearningRate:
    def test_it_is_the_inner_optimizers_to_read_and_to_set(self):
        inner = keras.optimizers.SGD(0.5)
        larc = LARC(inner)
        assert float(larc.learning_rate) == 0.5
        larc.learning_rate = 0.25
        assert float(inner.learning_rate) == float(larc.learning_rate) == 0.25

    def test_a_schedule_counts_every_step_as_keras_does(self):
        starts, gradients = random_run(6)
        rates = keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.1, 0.2, 0.4])
        larc = LARC(keras.optimizers.SGD(rates, gradient_accumulation_steps=2))
        variables = [keras.Variable(start) for start in starts]
        seen = []
        for each in gradients:
            larc.apply([keras.ops.convert_to_tensor(g) for g in each], variables)
            seen.append(float(larc.learning_rate))
        expected = [float(rates(step)) for step in range(1, 7)]
        assert seen == pytest.approx(expected)

    def test_the_schedules_rate_is_the_one_that_is_clipped_with_and_stepped_with(self):
        starts, gradients = random_run(3)
        rates = keras.optimizers.schedules.PolynomialDecay(0.4, 3, 0.1)
        actual = steps(LARC(keras.optimizers.SGD(rates)), starts, gradients)
        weights = starts
        for k, each in enumerate(gradients):
            rate = float(rates(k))
            weights = [w - rate * by_hand(w, g, rate) for w, g in zip(weights, each, strict=True)]
        assert_same(actual, weights)


class TestSaving:
    def larc(self):
        return LARC(
            keras.optimizers.AdamW(0.05, weight_decay=0.01), trust_coefficient=0.1,
            trust_clip=False, epsilon=1e-6, exclude_from_weight_decay=["bias"],
            exclude_from_layer_adaptation=["head"], clipnorm=1.0,
        )  # fmt: skip

    def test_every_option_survives_the_config(self):
        config = self.larc().get_config()
        again = LARC.from_config(json.loads(json.dumps(config)))
        assert again.get_config() == config
        assert isinstance(again.optimizer, keras.optimizers.AdamW)
        assert (again.trust_coefficient, again.trust_clip, again.clipnorm) == (0.1, False, 1.0)

    def test_a_model_saved_and_loaded_goes_on_as_if_it_had_not_stopped(self, tmp_path):
        generator = np.random.default_rng(0)
        x, y = generator.normal(size=(32, 6)), generator.normal(size=(32, 3))
        model = small_model()
        model.compile(self.larc(), loss="mse")
        fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
        model.fit(x, y, epochs=2, **fit)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for each in (model, loaded):
            each.fit(x, y, epochs=2, **fit)
        for a, b in zip(
            numpy_of(model.weights + model.optimizer.variables),
            numpy_of(loaded.weights + loaded.optimizer.variables),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


class TestRefusals:
    def test_what_is_no_optimizer(self):
        with pytest.raises(ValueError, match=r"optimizer='sgd' must be a keras\.optimizers"):
            LARC("sgd")

    def test_a_loss_scale_optimizer_which_goes_around(self):
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        with pytest.raises(ValueError, match=r"LossScaleOptimizer.*put LARC inside"):
            LARC(scaled)

    def test_an_optimizer_that_is_built(self):
        inner = keras.optimizers.SGD(0.1)
        inner.build([keras.Variable(np.ones((2, 2)))])
        with pytest.raises(ValueError, match="built already"):
            LARC(inner)

    def test_exclusions_from_decay_that_would_be_lost(self):
        inner = keras.optimizers.AdamW(0.1)
        inner.exclude_from_weight_decay(var_names=["bias"])
        with pytest.raises(ValueError, match="give them to LARC's exclude_from_weight_decay"):
            LARC(inner)

    @pytest.mark.parametrize(
        ("argument", "value"),
        [("trust_coefficient", 0.0), ("epsilon", -1.0), ("trust_clip", 1.5), ("weight_decay", -1)],
    )
    def test_arguments_out_of_range(self, argument, value):
        with pytest.raises(ValueError, match=f"{argument}="):
            LARC(keras.optimizers.SGD(0.1), **{argument: value})
