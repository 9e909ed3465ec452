"""LARS against the formulas in float64, over random runs with changing rates."""

import itertools

import keras
import numpy as np
import pytest

from tests.optimizers.reference import ReferenceLARS
from tf_lars.optimizers import LARS

RULES = ("scaled", "trust_scaled", "unscaled", "update_norm")
SHAPES = ((7, 5), (3, 3, 4, 2), (6,), ())


def run_both(options, seed=0, steps=12, learning_rates=None):
    """The variables after the same random gradients, ours and the reference's."""
    generator = np.random.default_rng(seed)
    starts = [generator.normal(size=shape) for shape in SHAPES]
    variables = [keras.Variable(start, dtype="float32") for start in starts]
    references = [
        ReferenceLARS(np.float32(s), decays=s.ndim > 1, adapts=s.ndim > 1, **options)
        for s in starts
    ]
    optimizer = LARS(learning_rate=0.0, **options)
    rates = learning_rates or generator.uniform(0.1, 3.0, size=steps)
    for rate in map(float, np.float32(rates)):
        gradients = [np.float32(generator.normal(size=shape)) for shape in SHAPES]
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
        for reference, gradient in zip(references, gradients, strict=True):
            reference.step(gradient, rate)
    return [keras.ops.convert_to_numpy(v) for v in variables], [r.w for r in references]


def assert_relative(actual, expected, tolerance=1e-6):
    for a, e in zip(actual, expected, strict=True):
        scale = max(float(np.max(np.abs(e))), 1e-30)
        assert np.max(np.abs(np.asarray(a, np.float64) - e)) <= tolerance * scale


@pytest.mark.parametrize(
    ("rule", "denominator", "nesterov"),
    itertools.product(RULES, ("sum", "joint"), (False, True)),
)
def test_lars_follows_the_formulas_while_the_rate_changes(rule, denominator, nesterov):
    options = {
        "momentum_rule": rule, "denominator": denominator, "nesterov": nesterov,
        "weight_decay": 0.01, "trust_coefficient": 0.02, "epsilon": 1e-5,
    }  # fmt: skip
    assert_relative(*run_both(options))


@pytest.mark.parametrize(
    "options",
    [
        {"momentum_correction": True, "trust_coefficient": 0.02},
        {"trust_clip": True, "trust_coefficient": 0.5, "momentum_rule": "trust_scaled"},
        {"min_trust_ratio": 0.01, "max_trust_ratio": 0.02, "trust_coefficient": 0.02},
        {"momentum": 0.0, "trust_coefficient": 0.02},
    ],
    ids=lambda options: next(iter(options)),
)
def test_lars_options_follow_the_formulas(options):
    assert_relative(*run_both(options))


def test_a_learning_rate_of_zero_moves_nothing_and_does_not_break_the_correction():
    options = {"momentum_correction": True, "trust_clip": True, "trust_coefficient": 0.02}
    ours, reference = run_both(options, learning_rates=[0.0, 0.5, 1.0, 0.0, 2.0])
    assert_relative(ours, reference)
