"""DistributedOptimizer's settings: what is exchanged, how, and with whom."""

import functools

import numpy as np
import pytest

from tests import workers
from tests.horovod import models
from tests.horovod.agreement import assert_fit_agrees, assert_updates_agree

job = workers.Job(2, 3)
pair = workers.Job(2)


@job.check
def test_op_sum_and_predivision_give_the_sum_and_the_average():
    import keras

    import tf_lars.horovod as hvd

    assert_updates_agree(
        lambda: keras.optimizers.SGD(0.1 / hvd.size()),
        wrap=functools.partial(hvd.DistributedOptimizer, op=hvd.Sum),
        reference=lambda: keras.optimizers.SGD(0.1),
    )
    assert_updates_agree(
        lambda: keras.optimizers.SGD(0.1),
        wrap=functools.partial(hvd.DistributedOptimizer, gradient_predivide_factor=1.7),
    )


@job.check
def test_compression_loses_half_precision_only():
    import keras

    import tf_lars.horovod as hvd

    wrap = functools.partial(hvd.DistributedOptimizer, compression=hvd.Compression.fp16)
    assert_updates_agree(lambda: keras.optimizers.SGD(0.1), wrap, tolerance=1e-3)


@job.check
def test_bfloat16_gradients_are_averaged():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD())
    gradient = tf.constant([1.0, 2.0], tf.bfloat16) * (hvd.rank() + 1)
    (mean,) = optimizer.reduce_gradients([gradient], [tf.Variable([0.0, 0.0])])
    assert mean.dtype == tf.bfloat16
    factor = (hvd.size() + 1) / 2
    np.testing.assert_array_equal(tf.cast(mean, tf.float32), [factor, 2 * factor])


@job.check
def test_groups_devices_and_overlap_change_nothing_in_the_result():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    variables = [tf.Variable(tf.zeros([k])) for k in (3, 1, 4, 2)]
    settings = [
        {"groups": 2},
        {"groups": 100},
        {"groups": [variables[:2], [variables[3]]]},
        {"overlap": True},
        {"overlap": False},
        {"device_dense": "/cpu:0", "device_sparse": "/cpu:0", "name": "mine"},
    ]
    for setting in settings:
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(), **setting)
        reduce = tf.function(lambda g, o=optimizer: o.reduce_gradients(g, variables))
        means = reduce([v + (hvd.rank() + 1.0) for v in variables])
        for mean in means:
            np.testing.assert_allclose(mean, np.full(mean.shape, (hvd.size() + 1) / 2), rtol=1e-6)


@job.check
def test_sparse_gradients_mixed_with_dense_ones_agree_with_one_process():
    import keras

    import tf_lars.horovod as hvd

    make = functools.partial(keras.optimizers.SGD, 0.5, 0.9)
    task = {"inputs": models.words(), "model": models.embedding_model}
    assert_fit_agrees(make, **task)
    for setting in ({"sparse_as_dense": True}, {"groups": 2}):
        assert_fit_agrees(make, functools.partial(hvd.DistributedOptimizer, **setting), **task)


@pair.check
def test_sparse_gradients_under_accumulation_agree_with_one_process():
    import keras

    import tf_lars.horovod as hvd

    options = {"backward_passes_per_step": 2, "average_aggregated_gradients": True}
    assert_fit_agrees(
        functools.partial(keras.optimizers.SGD, 0.5),
        functools.partial(hvd.DistributedOptimizer, **options),
        inputs=models.words(),
        model=models.embedding_model,
        batch=12,
    )


@job.check
def test_local_variables_keep_their_own_gradient_scaled_or_not():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    model = models.mlp()
    kernel, bias = model.layers[-1].trainable_variables
    for scale in (True, False):
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(), scale_local_gradients=scale)
        optimizer.register_local_var(kernel)
        mine = [tf.fill(v.shape, float(hvd.rank() + 1)) for v in (kernel, bias)]
        local, shared = optimizer.reduce_gradients(mine, [kernel, bias])
        expected = (hvd.rank() + 1) / (hvd.size() if scale else 1)
        np.testing.assert_allclose(local, np.full(kernel.shape, expected), rtol=1e-6)
        np.testing.assert_allclose(shared, np.full(bias.shape, (hvd.size() + 1) / 2), rtol=1e-6)


@job.check
def test_the_partial_optimizer_leaves_a_layer_to_each_rank():
    import keras

    import tf_lars.horovod as hvd

    x, y = models.data()
    model = models.mlp()
    optimizer = hvd.PartialDistributedOptimizer(
        keras.optimizers.SGD(0.1), local_layers=model.layers[0]
    )
    models.train_ranks(model, optimizer, x, y)
    assert models.spread(models.flat(model.layers[0].trainable_variables)) > 1e-4
    with pytest.raises(ValueError, match=r"keras\.Layer"):
        hvd.PartialDistributedOptimizer(keras.optimizers.SGD(), local_layers=["dense"])


@workers.Job(3, env={"HOROVOD_DYNAMIC_PROCESS_SETS": 1}).check
def test_a_process_set_averages_among_its_ranks_only():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    chosen = hvd.add_process_set([0, 2])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(), process_set=chosen)
    variable = tf.Variable([0.0])
    (result,) = optimizer.reduce_gradients([tf.constant([float(hvd.rank())])], [variable])
    assert float(result[0]) == 1.0
    assert hvd.remove_process_set(chosen)


@pair.check
def test_wrong_settings_are_refused_before_any_training():
    import keras

    import tf_lars.horovod as hvd

    refused = [
        ({"op": hvd.Adasum}, "MPI"),
        ({"op": hvd.Max}, "op must be"),
        ({"gradient_predivide_factor": 0.0}, "gradient_predivide_factor"),
        ({"gradient_predivide_factor": 2.0, "op": hvd.Sum}, "op=Average"),
        ({"groups": -1}, "groups"),
        ({"groups": "two"}, "groups"),
        ({"backward_passes_per_step": 0}, "backward_passes_per_step"),
        ({"compression": "fp16"}, "compression"),
        ({"overlap": "sometimes"}, "overlap"),
    ]
    for setting, message in refused:
        with pytest.raises(ValueError, match=message):
            hvd.DistributedOptimizer(keras.optimizers.SGD(), **setting)
    with pytest.raises(ValueError, match="Optimizer"):
        hvd.DistributedOptimizer("sgd")
    with pytest.raises(ValueError, match="already"):
        hvd.DistributedOptimizer(hvd.DistributedOptimizer(keras.optimizers.SGD()))
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
        hvd.DistributedOptimizer(
            keras.optimizers.SGD(gradient_accumulation_steps=2), backward_passes_per_step=2
        )
