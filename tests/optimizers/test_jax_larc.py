"""LARC's stateless update on JAX."""

import keras
import numpy as np
import pytest

from tests.optimizers.test_contract import numpy_of, random_run, steps
from tf_lars import LARC


@pytest.mark.parametrize("accumulate", [None, 2])
def test_stateless_apply_inside_jit_equals_apply(accumulate):
    import jax

    def larc():
        return LARC(keras.optimizers.Adam(0.1, gradient_accumulation_steps=accumulate))

    starts, gradients = random_run(4)
    optimizer = larc()
    variables = [keras.Variable(start, name=f"w{k}") for k, start in enumerate(starts)]
    optimizer.build(variables)
    step = jax.jit(optimizer.stateless_apply)
    weights, state = [v.value for v in variables], [v.value for v in optimizer.variables]
    for each in gradients:
        weights, state = step(state, each, weights)
    stateful = larc()
    for a, b in zip(weights, steps(stateful, starts, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)
    for a, b in zip(state, numpy_of(stateful.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)
