"""float16: one rank's infinity makes all ranks skip the step, in either nesting of the wrappers."""

import functools

import numpy as np

from tests import workers
from tests.horovod import models

pair = workers.Job(2)


def apply_to(optimizer, variable, gradient):
    optimizer.apply([gradient], [variable])


def nestings():
    import keras

    import tf_lars.horovod as hvd

    scaled = keras.optimizers.LossScaleOptimizer
    return {
        "scaling around": lambda **o: scaled(
            hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, **o)), initial_scale=8.0
        ),
        "scaling within": lambda **o: hvd.DistributedOptimizer(
            scaled(keras.optimizers.SGD(0.1, **o), initial_scale=8.0)
        ),
    }


@pair.check
def test_an_infinity_on_one_rank_makes_all_skip_and_halve_the_scale():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    for name, make in nestings().items():
        for bad in (np.inf, np.nan):
            optimizer, variable = make(), keras.Variable([1.0])
            optimizer.build([variable])
            assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            step = tf.function(functools.partial(apply_to, optimizer, variable))
            step(tf.constant([bad if hvd.rank() == 1 else 1.0], tf.float32))
            assert float(variable[0]) == 1.0, name
            assert float(optimizer.dynamic_scale) == 4.0
            assert int(optimizer.iterations) == 0
            step(tf.constant([4.0 * (hvd.rank() + 1)]))
            np.testing.assert_allclose(float(variable[0]), 1.0 - 0.1 * 1.5, rtol=1e-6)
            assert int(optimizer.iterations) == 1


@pair.check
def test_accumulated_passes_survive_an_infinity_on_one_rank():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    for make in nestings().values():
        optimizer, variable = make(gradient_accumulation_steps=2), keras.Variable([1.0])
        optimizer.build([variable])
        for value in (1.0, np.inf if hvd.rank() == 0 else 1.0, 1.0):
            optimizer.apply([tf.constant([value * float(optimizer.dynamic_scale)])], [variable])
        np.testing.assert_allclose(float(variable[0]), 0.9, rtol=1e-6)
        assert models.spread(models.flat(optimizer.variables)) == 0


@pair.check
def test_a_float16_model_trains_alike_on_all_ranks_also_when_keras_wraps_it():
    import keras

    import tf_lars.horovod as hvd

    x, y = models.data()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        for optimizer in (
            hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)),
            hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), compression=hvd.Compression.fp16),
            nestings()["scaling within"](),
        ):
            model = models.mlp()
            bad = np.where(hvd.rank() == 1, 1e6, 1.0) * x  # float16 overflows on rank 1 alone
            ranks = models.train_ranks(model, optimizer, bad.astype("float32"), y, epochs=1)
            assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
            assert int(model.optimizer.iterations) == 0
            ranks = models.train_ranks(model, optimizer, x, y, epochs=2)
            assert np.all(np.isfinite(ranks))
            assert int(model.optimizer.iterations) > 0
            assert models.spread(ranks) == 0
    finally:
        keras.config.set_dtype_policy("float32")


@pair.check
def test_backward_passes_and_local_variables_work_with_loss_scaling():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=2.0)
    optimizer = hvd.DistributedOptimizer(scaled, backward_passes_per_step=2)
    shared, local = keras.Variable([0.0]), keras.Variable([0.0])
    optimizer.build([shared, local])
    optimizer.register_local_var(local)
    for _ in range(2):
        gradient = tf.constant([2.0 * (hvd.rank() + 1)])
        optimizer.apply([gradient, gradient], [shared, local])
    assert float(shared[0]) == -3.0
    assert float(local[0]) == -(hvd.rank() + 1.0)
