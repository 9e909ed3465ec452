"""LARC under tf.distribute."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.optimizers.devices import two_devices
from tests.optimizers.test_contract import numpy_of, random_run, steps
from tf_lars import LARC, LARS

INNERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.1),
    "LARS": lambda: LARS(0.1, trust_coefficient=0.1),
}


@pytest.mark.parametrize("inner", INNERS)
def test_two_replicas_step_as_one_on_the_sum_of_their_gradients(inner):
    starts, gradients = random_run(3)
    strategy = two_devices()
    with strategy.scope():
        variables = [keras.Variable(start) for start in starts]
        optimizer = LARC(INNERS[inner](), weight_decay=0.01)
        optimizer.build(variables)

    @tf.function
    def step(each):
        def on_replica():
            share = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, "float32")
            # A quarter of the gradient on the first replica, the rest on the second.
            optimizer.apply([g * (0.25 + 0.5 * share) for g in each], variables)

        strategy.run(on_replica)

    for each in gradients:
        step([tf.constant(g) for g in each])
    expected = steps(LARC(INNERS[inner](), weight_decay=0.01), starts, gradients)
    for a, b in zip(numpy_of(variables), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-6, atol=5e-6)
    for variable in variables:
        first, second = strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first, second)
