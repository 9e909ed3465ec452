"""DistributedOptimizer: N ranks train as one process with the whole batch."""

import functools

import numpy as np
import pytest

from tests import workers
from tests.horovod import models
from tests.horovod.agreement import assert_fit_agrees, assert_updates_agree

job = workers.Job(2, 3)
pair = workers.Job(2)


@job.check
def test_one_gradient_over_the_ranks_is_that_of_the_whole_batch_to_1e_6():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    x, y = models.data()
    model = models.mlp()

    def gradients(x, y):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.losses.mean_squared_error(y, model(x)))
        return tape.gradient(loss, model.trainable_variables)

    mine = gradients(*(models.shard(a, hvd.rank(), hvd.size()) for a in (x, y)))
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD())
    combined = optimizer.reduce_gradients(mine, model.trainable_variables)
    np.testing.assert_allclose(
        models.flat(combined), models.flat(gradients(x, y)), atol=1e-6, rtol=0
    )


@job.check
def test_every_keras_optimizer_updates_as_one_process():
    import keras

    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam"):
        assert_updates_agree(functools.partial(getattr(keras.optimizers, name), 0.05))
    for name in ("Ftrl", "Lion", "Lamb", "Muon", "Adafactor", "ScheduleFreeAdamW"):
        # Signs, roots and products of near-zero values magnify rounding.
        make = functools.partial(getattr(keras.optimizers, name), 0.01)
        assert_updates_agree(make, tolerance=1e-4)


@job.check
def test_our_optimizers_update_as_one_process():
    import tf_lars

    for name in ("LARS", "LAMB"):
        assert_updates_agree(functools.partial(getattr(tf_lars, name), learning_rate=0.1))


@job.check
def test_a_multi_optimizer_updates_as_one_process():
    from keras import optimizers
    from keras.src.optimizers.multi_optimizer import OptimizerMap

    def make():
        chosen = OptimizerMap(optimizers.SGD(0.1))
        chosen["bias"] = optimizers.Adam(0.01)
        return optimizers.MultiOptimizer(chosen)

    assert_updates_agree(make)


@job.check
def test_the_averaged_gradient_is_clipped():
    import keras

    for clip in ({"clipnorm": 0.05}, {"global_clipnorm": 0.05}, {"clipvalue": 0.01}):
        assert_updates_agree(functools.partial(keras.optimizers.SGD, 0.5, **clip))


@job.check
def test_moving_averages_and_weight_decay_agree_with_one_process():
    import keras

    ema = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2}
    assert_updates_agree(functools.partial(keras.optimizers.SGD, 0.1, **ema))
    assert_updates_agree(functools.partial(keras.optimizers.AdamW, 0.01, weight_decay=0.1))


@job.check
def test_fit_agrees_with_one_process():
    import keras

    import tf_lars

    assert_fit_agrees(functools.partial(keras.optimizers.Adam, 0.01))
    assert_fit_agrees(functools.partial(tf_lars.LARS, learning_rate=0.1, weight_decay=1e-4))


@pair.check
def test_fit_with_several_steps_in_one_execution_or_eagerly_agrees_with_one_process():
    import keras

    make = functools.partial(keras.optimizers.SGD, 0.1)
    assert_fit_agrees(make, steps_per_execution=2)
    assert_fit_agrees(make, run_eagerly=True)


@pair.check
def test_a_model_compiled_with_xla_runs_in_parts_and_agrees_with_one_process():
    import keras

    import tf_lars.horovod as hvd

    assert_fit_agrees(functools.partial(keras.optimizers.Adam, 0.01), jit_compile=True)
    model = models.mlp()
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD()), "mse", jit_compile=True)
    assert not model.jit_compile
    assert model.optimizer.compile_update
    model.compile(keras.optimizers.SGD(), "mse", jit_compile=True)
    assert model.jit_compile


@pair.check
def test_inside_a_function_compiled_with_xla_there_is_a_clear_refusal():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    model = models.mlp()
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD())
    optimizer.build(model.trainable_variables)
    step = tf.function(
        lambda: optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables]),
        jit_compile=True,
    )
    with pytest.raises(RuntimeError, match="jit_compile=True"):
        step()


@job.check
def test_keras_accumulation_exchanges_gradients_at_updates_only():
    import keras

    import tf_lars.horovod as hvd

    made = []

    def wrap(optimizer):
        made.append(hvd.DistributedOptimizer(optimizer))
        return made[-1]

    make = functools.partial(keras.optimizers.SGD, 0.1, momentum=0.9)
    accumulating = functools.partial(make, gradient_accumulation_steps=2)
    assert_fit_agrees(accumulating, wrap, reference=make, batch=12)
    assert int(made[0].iterations) == 4


@pair.check
def test_backward_passes_add_up_or_average_and_count_one_iteration():
    import keras

    import tf_lars.horovod as hvd

    x, y = models.data()
    whole = models.train_whole(models.mlp(), keras.optimizers.SGD(0.1), x, y)
    for average, rate, built in ((True, 0.1, False), (False, 0.05, True)):
        model, inner = models.mlp(), keras.optimizers.SGD(rate)
        if built:
            inner.build(model.trainable_variables)
        optimizer = hvd.DistributedOptimizer(
            inner, backward_passes_per_step=2, average_aggregated_gradients=average
        )
        ranks = models.train_ranks(model, optimizer, x, y, batch=12)
        np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)
        assert int(optimizer.iterations) == 4
