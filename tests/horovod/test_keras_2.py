"""What scripts for Horovod's Keras 2 interface do with an optimizer."""

import numpy as np
import pytest

from tests import workers

pair = workers.Job(2)


def distributed(*arguments, **settings):
    import keras

    import tf_lars.horovod as hvd

    return hvd.DistributedOptimizer(keras.optimizers.SGD(*arguments), **settings)


@pair.check
def test_the_learning_rate_has_its_old_name_and_its_old_ways():
    import tensorflow as tf

    optimizer = distributed(0.1)
    assert float(optimizer.lr.numpy()) == pytest.approx(0.1)
    tf.keras.backend.set_value(optimizer.lr, 0.5)
    assert float(optimizer.learning_rate) == tf.keras.backend.get_value(optimizer.lr) == 0.5
    optimizer.lr = 0.25
    assert float(optimizer.learning_rate) == 0.25
    optimizer.lr.assign(0.125)
    assert float(optimizer.learning_rate) == 0.125


@pair.check
def test_an_optimizer_with_an_attribute_lr_of_its_own_keeps_it():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    class Own(keras.optimizers.Optimizer):
        def __init__(self, lr):
            super().__init__(learning_rate=1.0)
            self.lr = lr

        def update_step(self, gradient, variable, learning_rate):
            variable.assign_sub(self.lr * gradient)

    variable, optimizer = tf.Variable([0.0]), hvd.DistributedOptimizer(Own(0.5))
    optimizer.apply([tf.constant([1.0])], [variable])
    optimizer.lr = 0.25
    optimizer.apply([tf.constant([1.0])], [variable])
    assert float(variable[0]) == -0.75
    assert float(optimizer.learning_rate) == 1.0


@pair.check
def test_plain_optimizers_have_the_names_that_loops_with_the_tape_and_elastic_jobs_use():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    hvd.DistributedGradientTape(tf.GradientTape())
    optimizer = keras.optimizers.SGD(0.1)
    assert optimizer.variables() == optimizer.variables
    optimizer.lr.assign(0.5)
    assert float(optimizer.learning_rate) == 0.5


@pair.check
def test_weights_are_read_and_set_as_lists_of_arrays():
    import keras

    one, other = distributed(0.1, 0.9), distributed(0.2, 0.9)
    for optimizer in (one, other):
        optimizer.build([keras.Variable(np.ones((2, 3)))])
    one.apply([keras.ops.ones((2, 3))])
    assert len(one.weights) == len(one.variables()) == 3
    other.set_weights(one.get_weights())
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="shorter"):
        other.set_weights(one.get_weights()[:2])


@pair.check
def test_minimize_takes_a_function_or_a_tensor_with_its_tape():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    for variable in (tf.Variable([0.0]), keras.Variable([0.0])):
        optimizer = distributed(1.0)
        optimizer.minimize(lambda v=variable: v * (hvd.rank() + 1.0), [variable])
        assert float(variable[0]) == -1.5
        with tf.GradientTape() as tape:
            loss = variable * (hvd.rank() + 1.0)
        optimizer.minimize(loss, lambda v=variable: [v], tape=tape)
        assert float(variable[0]) == -3.0
        with pytest.raises(ValueError, match="tape: a loss that is a tensor needs the tape"):
            optimizer.minimize(loss, [variable])


@pair.check
def test_gradients_that_were_combined_already_are_not_combined_again():
    import tensorflow as tf

    import tf_lars.horovod as hvd

    variable = tf.Variable([0.0])
    optimizer = distributed(1.0, op=hvd.Sum)
    pairs = optimizer.compute_gradients(lambda: variable * (hvd.rank() + 1.0), [[variable]])
    assert float(pairs[0][0][0]) == 3.0
    optimizer.apply_gradients(pairs)
    assert float(variable[0]) == -3.0
    own = [(tf.constant([1.0]), variable)]
    optimizer.apply_gradients(own, experimental_aggregate_gradients=False)
    optimizer.apply_gradients(own, skip_gradients_aggregation=True, name="step")
    assert float(variable[0]) == -5.0
    optimizer.apply_gradients(own)
    assert float(variable[0]) == -7.0


@pair.check
def test_local_variables_under_aggregation_move_by_their_own_gradients():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    class Adding(keras.optimizers.Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            variable.assign_add(gradient)

    for average in (True, False):
        optimizer = hvd.DistributedOptimizer(
            Adding(1.0),
            backward_passes_per_step=3,
            average_aggregated_gradients=average,
            sparse_as_dense=True,
        )
        tables = [tf.Variable([0.0, 7.0]) for _ in range(4)]
        for table in tables[:2]:
            optimizer.register_local_var(table)

        @tf.function
        def step(optimizer=optimizer, tables=tables):
            with tf.GradientTape() as tape:
                loss = sum((hvd.rank() + 1.0) * tf.gather(table, [0]) for table in tables)
            gradients = tape.gradient(loss, tables)
            optimizer.apply_gradients(zip(gradients, tables, strict=True))

        for k in range(1, 8):
            step()
            updates = k // 3 * (1 if average else 3)
            expected = [updates * (hvd.rank() + 1) / 2] * 2 + [updates * 1.5] * 2
            for table, value in zip(tables, expected, strict=True):
                np.testing.assert_allclose(table.numpy(), [value, 7.0], rtol=1e-6)
