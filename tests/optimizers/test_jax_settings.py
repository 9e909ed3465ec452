"""The settings of JAX that an optimizer meets: stateless steps, jit, sharded variables."""

import jax
import keras
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.optimizers.reference import norm
from tests.optimizers.test_contract import every_optimizer, random_run, steps
from tf_lars.optimizers import LARS

pytestmark = pytest.mark.filterwarnings("ignore:CLARS.apply was given no mean_gradient_norms")


@pytest.mark.parametrize("jit", [False, True])
@every_optimizer
def test_stateless_steps_agree_with_stateful_ones(row, jit):
    starts, gradients = random_run()
    variables = [keras.Variable(start) for start in starts]
    optimizer = row.make(learning_rate=0.1, weight_decay=0.01)
    optimizer.build(variables)
    step = jax.jit(optimizer.stateless_apply) if jit else optimizer.stateless_apply
    state, values = [v.value for v in optimizer.variables], [v.value for v in variables]
    for each in gradients:
        values, state = step(state, each, values)
    expected = steps(row.make(learning_rate=0.1, weight_decay=0.01), starts, gradients)
    for a, b in zip(values, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@every_optimizer
def test_sharded_variables_take_the_same_step_as_whole_ones(row):
    starts, gradients = random_run(3, shapes=((4, 6), (8, 2)))
    mesh = jax.make_mesh((2,), ("rows",))
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    variables = [keras.Variable(start) for start in starts]
    optimizer = row.make(learning_rate=0.1, weight_decay=0.01)
    optimizer.build(variables)
    whole = NamedSharding(mesh, PartitionSpec())
    state = [
        jax.device_put(v.value, sharding if v.shape in ((4, 6), (8, 2)) else whole)
        for v in optimizer.variables
    ]
    values = [jax.device_put(start, sharding) for start in starts]
    step = jax.jit(optimizer.stateless_apply)
    for each in gradients:
        values, state = step(state, [jax.device_put(g, sharding) for g in each], values)
    assert len(values[0].sharding.device_set) == 2
    expected = steps(row.make(learning_rate=0.1, weight_decay=0.01), starts, gradients)
    for a, b in zip(values, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_the_norm_of_a_sharded_variable_is_that_of_the_whole():
    starts, gradients = random_run(1, shapes=((4, 6),))
    sharding = NamedSharding(jax.make_mesh((2,), ("rows",)), PartitionSpec("rows"))
    variable = keras.Variable(starts[0])
    variable.assign(jax.device_put(starts[0], sharding))
    optimizer = LARS(learning_rate=0.1)
    optimizer.apply([jax.device_put(gradients[0][0], sharding)], [variable])
    assert float(*optimizer.weight_norms.values()) == pytest.approx(norm(starts[0]), rel=1e-6)
