"""Keras's settings around an optimizer: rates, clipping, accumulation, averages, loss scaling."""

import keras
import numpy as np
import pytest

from tests.optimizers.reference import ReferenceLAMB, ReferenceLARS, norm
from tests.optimizers.test_contract import (
    apply_under_loss_scaling,
    every_optimizer,
    numpy_of,
    random_run,
    steps,
)
from tf_lars.optimizers import CLARS, LAMB, LARS

pytestmark = pytest.mark.filterwarnings("ignore:CLARS.apply was given no mean_gradient_norms")


@keras.saving.register_keras_serializable(package="tests")
def quarter():
    return 0.25


@keras.saving.register_keras_serializable(package="tests")
def is_wide(variable):
    return variable.shape[-1] == 2


def reference_run(make, starts, gradients, rates, **options):
    """The values that a reference optimizer from reference.py reaches."""
    rules = [make(s, decays=s.ndim > 1, adapts=s.ndim > 1, **options) for s in starts]
    for each, rate in zip(gradients, rates, strict=True):
        for rule, gradient in zip(rules, each, strict=True):
            rule.step(gradient, rate)
    return [rule.w for rule in rules]


def assert_close(actual, expected, rtol=2e-6):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b)))


class TestRates:
    def test_a_schedule_sets_the_learning_rate_and_the_weight_decay_of_each_step(self):
        starts, gradients = random_run()
        rates = keras.optimizers.schedules.PolynomialDecay(2.0, 4, 0.5)
        decays = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
        optimizer = LARS(learning_rate=rates, weight_decay=decays, trust_coefficient=0.02)
        rules = [
            ReferenceLARS(s, trust_coefficient=0.02, decays=s.ndim > 1, adapts=s.ndim > 1)
            for s in starts
        ]
        for k, each in enumerate(gradients):
            for rule, gradient in zip(rules, each, strict=True):
                rule.beta = float(decays(k)) if rule.w.ndim > 1 else 0.0
                rule.step(gradient, float(rates(k)))
        assert_close(steps(optimizer, starts, gradients), [rule.w for rule in rules])

    def test_callables_set_the_rates_and_are_saved_when_registered(self):
        starts, gradients = random_run()
        optimizer = LARS(learning_rate=quarter, weight_decay=quarter)
        expected = reference_run(ReferenceLARS, starts, gradients, [0.25] * 5, weight_decay=0.25)
        assert_close(steps(optimizer, starts, gradients), expected)
        again = LARS.from_config(optimizer.get_config())
        assert again.weight_decay is quarter
        assert float(again.learning_rate) == 0.25

    @pytest.mark.parametrize("argument", ["learning_rate", "weight_decay"])
    def test_an_unregistered_callable_is_refused_by_get_config(self, argument):
        optimizer = LARS(**{"learning_rate": 0.1, argument: lambda: 0.1})
        with pytest.raises(ValueError, match=f"{argument}=.*register_keras_serializable"):
            optimizer.get_config()

    def test_a_set_of_exclusions_has_one_order_in_every_process(self):
        names = {"beta", "gamma", "bias", "alpha", "1d", "scale"}
        config = LARS(exclude_from_weight_decay=names).get_config()
        assert config["exclude_from_weight_decay"] == sorted(names)

    def test_schedules_survive_the_config(self):
        schedule = keras.optimizers.schedules.CosineDecay(0.5, 10)
        optimizer = LAMB(learning_rate=schedule, weight_decay=schedule)
        again = LAMB.from_config(optimizer.get_config())
        assert again.get_config() == optimizer.get_config()
        assert float(again.weight_decay(5)) == pytest.approx(float(schedule(5)))

    def test_assigning_a_learning_rate_takes_effect_without_a_new_trace(self):
        starts, gradients = random_run(2)
        optimizer = LARS(learning_rate=1.0)
        variables = [keras.Variable(start) for start in starts]
        for each, rate in zip(gradients, (1.0, 0.5), strict=True):
            optimizer.learning_rate = rate
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in each], variables)
        expected = reference_run(ReferenceLARS, starts, gradients, (1.0, 0.5))
        assert_close(numpy_of(variables), expected)


class TestClipping:
    """Each way of clipping equals clipping by hand before the step."""

    def clipped(self, each, setting, bound):
        if setting == "clipvalue":
            return [np.clip(g, -bound, bound) for g in each]
        if setting == "clipnorm":
            return [g * min(1.0, bound / norm(g)) for g in each]
        total = np.sqrt(sum(norm(g) ** 2 for g in each))
        return [g * min(1.0, bound / total) for g in each]

    @pytest.mark.parametrize("setting", ["clipvalue", "clipnorm", "global_clipnorm"])
    @every_optimizer
    def test_clipping_is_as_by_hand(self, row, setting):
        starts, gradients = random_run()
        by_hand = [self.clipped(each, setting, 0.7) for each in gradients]
        assert_close(
            steps(row.make(learning_rate=0.1, **{setting: 0.7}), starts, gradients),
            steps(row.make(learning_rate=0.1), starts, by_hand),
            rtol=1e-5,
        )

    @pytest.mark.parametrize("setting", ["clipnorm", "global_clipnorm"])
    def test_float16_gradients_are_clipped_by_their_float32_norm(self, setting):
        start = np.full((256, 256), 2.0, np.float32)
        gradient = keras.ops.full((256, 256), 4.0, dtype="float16")  # ‖g‖ = 1024, ‖g‖² overflows
        variable = keras.Variable(start, dtype="float16")
        optimizer = LARS(learning_rate=1.0, **{setting: 256.0})
        optimizer.apply([gradient], [variable])
        assert float(*optimizer.gradient_norms.values()) == pytest.approx(256.0, rel=1e-5)


class TestAccumulation:
    @every_optimizer
    def test_accumulated_gradients_step_as_their_mean(self, row):
        starts, gradients = random_run(6)
        means = [
            [(a + b) / 2 for a, b in zip(gradients[k], gradients[k + 1], strict=True)]
            for k in (0, 2, 4)
        ]
        norms = [
            [(norm(a) + norm(b)) / 2 for a, b in zip(gradients[k], gradients[k + 1], strict=True)]
            for k in (0, 2, 4)
        ]
        accumulating = row.make(learning_rate=0.1, gradient_accumulation_steps=2)
        actual = steps(accumulating, starts, gradients)
        optimizer = row.make(learning_rate=0.1)
        variables = [keras.Variable(start) for start in starts]
        for each, mean_norms in zip(means, norms, strict=True):
            extra = {"mean_gradient_norms": mean_norms} if row.make is CLARS else {}
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in each], variables, **extra)
        assert_close(actual, numpy_of(variables))

    @every_optimizer
    def test_the_average_of_the_weights_is_kept_and_put_in_place(self, row):
        starts, gradients = random_run(4)
        optimizer = row.make(learning_rate=0.1, use_ema=True, ema_momentum=0.5)
        variables = [keras.Variable(start) for start in starts]
        average = None
        for each in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in each], variables)
            now = numpy_of(variables)
            average = now if average is None else [
                0.5 * a + 0.5 * w for a, w in zip(average, now, strict=True)
            ]  # fmt: skip
        optimizer.finalize_variable_values(variables)
        assert_close(numpy_of(variables), average)

    def test_half_precision_variables_take_their_float32_average(self):
        variable = keras.Variable(np.ones((4, 4)), dtype="float16")
        optimizer = LARS(learning_rate=1.0, use_ema=True)
        optimizer.apply([keras.ops.ones((4, 4), dtype="float16")], [variable])
        optimizer.finalize_variable_values([variable])
        assert np.all(np.isfinite(numpy_of([variable])[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@every_optimizer
def test_under_loss_scaling_a_step_with_a_bad_gradient_is_skipped_whole(row, bad):
    starts, gradients = random_run(2)
    scaled = [[64 * g for g in each] for each in gradients]
    poisoned = [g.copy() for g in scaled[0]]
    poisoned[1].flat[3] = bad
    inner = row.make(learning_rate=0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
    variables = [keras.Variable(start) for start in starts]
    optimizer.build(variables)
    apply_under_loss_scaling(optimizer, scaled[0], variables)
    before = numpy_of(variables), numpy_of(inner.variables)
    apply_under_loss_scaling(optimizer, poisoned, variables)
    for was, now in zip(before, (numpy_of(variables), numpy_of(inner.variables)), strict=True):
        for a, b in zip(was, now, strict=True):
            np.testing.assert_array_equal(a, b)
    assert float(optimizer.dynamic_scale) == 32.0
    apply_under_loss_scaling(optimizer, [g / 2 for g in scaled[1]], variables)
    assert_close(numpy_of(variables), steps(row.make(learning_rate=0.1), starts, gradients))


class TestTypes:
    @every_optimizer
    def test_float64_variables_are_updated_in_float64(self, row):
        if keras.backend.backend() == "jax":
            import jax

            context = jax.enable_x64(True)
        else:
            import contextlib

            context = contextlib.nullcontext()
        with context:
            generator = np.random.default_rng(0)
            start, gradient = generator.normal(size=(2, 6, 5))
            variable = keras.Variable(start, dtype="float64")
            optimizer = row.make(learning_rate=0.25)
            optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype="float64")], [variable])
            moved = keras.ops.convert_to_numpy(variable)
        assert moved.dtype == np.float64
        if row.reference is not None:
            np.testing.assert_allclose(moved, row.reference(start).step(gradient, 0.25), rtol=1e-12)

    def test_master_weights_keep_steps_that_half_precision_would_lose(self):
        start = np.full((8, 8), 1.0, np.float32)
        gradient = keras.ops.full((8, 8), 1e-4, dtype="bfloat16")

        def moved(master):
            variable = keras.Variable(start, dtype="bfloat16")
            optimizer = LARS(
                learning_rate=1.0, momentum=0.0, master_weights=master,
                exclude_from_layer_adaptation=["."],
            )  # fmt: skip
            for _ in range(100):
                optimizer.apply([gradient], [variable])
            return float(np.mean(np.float32(numpy_of([variable])[0])))

        assert moved(False) == 1.0  # each step is below bfloat16's resolution
        assert moved(True) == pytest.approx(0.99, abs=0.004)

    def test_master_weights_follow_a_variable_that_is_set_from_outside(self):
        variable = keras.Variable(np.ones((4, 4)), dtype="float16")
        optimizer = LARS(learning_rate=1e-3, master_weights=True)
        optimizer.apply([keras.ops.ones((4, 4), dtype="float16")], [variable])
        variable.assign(np.full((4, 4), 3.0))
        optimizer.apply([keras.ops.ones((4, 4), dtype="float16")], [variable])
        assert np.mean(numpy_of([variable])[0]) == pytest.approx(3.0, abs=0.01)


class TestGradients:
    def test_a_missing_gradient_leaves_its_variable_and_its_record_alone(self):
        starts, gradients = random_run(2)
        variables = [keras.Variable(start) for start in starts]
        optimizer = LARS(learning_rate=1.0)
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients[0]], variables)
        ratios = list(map(float, optimizer.trust_ratios.values()))
        frozen = numpy_of(variables)[0]
        tensors = [keras.ops.convert_to_tensor(g) for g in gradients[1]]
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply([None, *tensors[1:]], variables)
        np.testing.assert_array_equal(numpy_of(variables)[0], frozen)
        after = list(map(float, optimizer.trust_ratios.values()))
        assert after[0] == ratios[0] and after[1] != ratios[1]

    def test_recorded_norms_are_those_of_the_step(self):
        starts, gradients = random_run(1)
        for optimizer in (LARS(learning_rate=1.0), LAMB(record_gradient_norms=True)):
            steps(optimizer, starts, gradients)
            for recorded, arrays in (
                (optimizer.weight_norms, starts), (optimizer.gradient_norms, gradients[0]),
            ):  # fmt: skip
                values = [float(value) for value in recorded.values()]
                np.testing.assert_allclose(values, [norm(a) for a in arrays], rtol=1e-6)

    def test_norms_that_the_rule_does_not_take_say_how_to_have_them(self):
        optimizer = LAMB()
        steps(optimizer, *random_run(1))
        with pytest.raises(ValueError, match="record_gradient_norms=True"):
            _ = optimizer.gradient_norms


def test_clars_divides_by_the_given_mean_norms_and_caps():
    start = np.array([[3.0, 4.0]])
    gradient = keras.ops.convert_to_tensor([[0.6, 0.8]], dtype="float32")

    def ratio(mean_norm, **options):
        optimizer = CLARS(learning_rate=1.0, epsilon=0.0, **options)
        variable = keras.Variable(start)
        optimizer.apply([gradient], [variable], mean_gradient_norms=[mean_norm])
        return float(*optimizer.trust_ratios.values())

    assert ratio(2.0) == pytest.approx(0.01 * 5 / 2)
    assert ratio(0.1) == pytest.approx(0.1)
    assert ratio(0.1, max_trust_ratio=None) == pytest.approx(0.5)


def test_clars_without_mean_norms_is_lars_and_warns_once():
    starts, gradients = random_run(3)
    options = {"learning_rate": 1.0, "trust_coefficient": 0.02, "epsilon": 1e-6}
    with pytest.warns(UserWarning, match="momentum_rule='unscaled'") as caught:
        actual = steps(CLARS(max_trust_ratio=None, **options), starts, gradients)
    assert len([w for w in caught if "CLARS.apply" in str(w.message)]) == 1
    lars = LARS(momentum_rule="unscaled", denominator="joint", **options)
    assert_close(actual, steps(lars, starts, gradients))


def test_clars_refuses_a_wrong_number_of_mean_norms():
    variable = keras.Variable(np.ones((2, 2)))
    with pytest.raises(ValueError, match="mean_gradient_norms has 2 entries for 1 gradients"):
        CLARS().apply([keras.ops.ones((2, 2))], [variable], mean_gradient_norms=[1.0, 2.0])


@pytest.mark.parametrize(
    "options",
    [{"nesterov": True}, {"bias_correction": False}, {"grad_averaging": False},
     {"decoupled_weight_decay": True}, {"min_trust_ratio": 2.0, "max_trust_ratio": 3.0},
     {"min_weight_norm": 2.0, "max_weight_norm": 2.5}, {"beta_1": 0.0}, {"beta_2": 0.0}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_lamb_options_follow_the_formulas(options):
    starts, gradients = random_run(8)
    options = {"weight_decay": 0.05, **options}
    rates = [0.1] * 8
    actual = steps(LAMB(learning_rate=0.1, **options), starts, gradients)
    assert_close(actual, reference_run(ReferenceLAMB, starts, gradients, rates, **options), 1e-5)
