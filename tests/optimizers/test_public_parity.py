"""LARS and LAMB against optax, Keras's Lamb and, over drawn runs, the formulas."""

import jax
import keras
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.optimizers.precision import DTYPE, assert_relative
from tests.optimizers.reference import ReferenceLAMB, ReferenceLARS
from tf_lars import LAMB, LARS

RATES = [0.05, 0.1, 0.4, 0.2, 0.1, 0.01]
SHAPES = ((5, 4), (3, 3, 2, 4), (7,))
DRAWN = settings(max_examples=25, deadline=None, derandomize=True)


def random_run(seed=0, shapes=SHAPES, steps=6):
    generator = np.random.default_rng(seed)
    starts = [np.float32(generator.normal(size=shape)) for shape in shapes]
    gradients = [
        [np.float32(generator.normal(size=shape)) for shape in shapes] for _ in range(steps)
    ]
    return starts, gradients


def keras_after(optimizer, starts, gradients, rates):
    variables = [keras.Variable(start, dtype=DTYPE) for start in starts]
    for each, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(g, dtype=DTYPE) for g in each], variables)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def optax_after(make, starts, gradients, rates):
    """optax in float64: in float32 its own 1 − 0.999ᵗ is off by 1e-5."""
    with jax.enable_x64(True):
        weights = [jax.numpy.asarray(start, "float64") for start in starts]
        table = jax.numpy.asarray(np.float32(rates), "float64")
        transform = make(lambda count: table[count])
        state = transform.init(weights)
        for each in gradients:
            gradient = [jax.numpy.asarray(g, "float64") for g in each]
            updates, state = transform.update(gradient, state, weights)
            weights = optax.apply_updates(weights, updates)
        return [np.asarray(weight) for weight in weights]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lars_agrees_with_optax(decay, nesterov):
    run = (*random_run(), RATES)
    ours = LARS.from_preset(
        "optax", learning_rate=0.0, weight_decay=decay, nesterov=nesterov, trust_coefficient=0.05
    )
    theirs = optax_after(
        lambda rate: optax.lars(
            rate, weight_decay=decay, nesterov=nesterov, trust_coefficient=0.05
        ),
        *run,
    )
    assert_relative(keras_after(ours, *run), theirs)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lamb_agrees_with_optax(decay):
    run = (*random_run(), RATES)
    ours = LAMB.from_preset("optax", learning_rate=0.0, weight_decay=decay)
    theirs = optax_after(lambda rate: optax.lamb(rate, weight_decay=decay), *run)
    assert_relative(keras_after(ours, *run), theirs, 2e-6)


@pytest.mark.parametrize("decay", [None, 0.1])
def test_lamb_agrees_with_keras(decay):
    run = (*random_run(), RATES)
    ours = LAMB.from_preset("keras", learning_rate=0.0, weight_decay=decay or 0.0)
    theirs = keras.optimizers.Lamb(learning_rate=0.0, weight_decay=decay)
    # Keras rounds its decay to float32, whatever the variable's type.
    assert_relative(keras_after(ours, *run), keras_after(theirs, *run), 2e-6, 1e-8)


shapes = st.lists(
    st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple), min_size=1, max_size=4
)
rates = st.lists(st.floats(0.0, 2.0, width=32, allow_subnormal=False), min_size=1, max_size=5)
fractions = st.floats(0.0, 0.96875, width=32, allow_subnormal=False)
bounds = st.sampled_from([(None, None), (None, 0.05), (1e-3, None), (1e-3, 0.05)])


def agree(ours, reference, shapes, rates, seed, **options):
    starts, gradients = random_run(seed, shapes, len(rates))
    actual = keras_after(
        ours(learning_rate=0.0, jit_compile=False, **options), starts, gradients, rates
    )
    expected = []
    for k, start in enumerate(starts):
        wide = start.ndim > 1
        rule = reference(start, decays=wide, adapts=wide, **options)
        for each, rate in zip(gradients, rates, strict=True):
            rule.step(each[k], rate)
        expected.append(rule.w)
    assert_relative(actual, expected, 2e-6)


@DRAWN
@given(
    shapes=shapes,
    rates=rates,
    seed=st.integers(0, 99),
    momentum=fractions,
    nesterov=st.booleans(),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.1]),
    trust_coefficient=st.sampled_from([1e-3, 0.02]),
    rule=st.sampled_from(["scaled", "trust_scaled", "unscaled", "update_norm"]),
    denominator=st.sampled_from(["sum", "joint"]),
    trust_clip=st.booleans(),
    bounds=bounds,
)
def test_lars_follows_the_formulas(shapes, rates, seed, rule, bounds, **options):
    agree(
        LARS, ReferenceLARS, shapes, rates, seed, momentum_rule=rule,
        min_trust_ratio=bounds[0], max_trust_ratio=bounds[1], **options,
    )  # fmt: skip


@DRAWN
@given(
    shapes=shapes,
    rates=rates,
    seed=st.integers(0, 99),
    beta_1=st.sampled_from([0.0, 0.5, 0.9]),
    beta_2=st.sampled_from([0.5, 0.99, 0.999]),
    weight_decay=st.sampled_from([0.0, 0.01, 0.3]),
    bias_correction=st.booleans(),
    grad_averaging=st.booleans(),
    nesterov=st.booleans(),
    decoupled_weight_decay=st.booleans(),
    bounds=bounds,
)
def test_lamb_follows_the_formulas(shapes, rates, seed, bounds, **options):
    agree(
        LAMB, ReferenceLAMB, shapes, rates, seed, epsilon=1e-3,
        min_trust_ratio=bounds[0], max_trust_ratio=bounds[1], **options,
    )  # fmt: skip
