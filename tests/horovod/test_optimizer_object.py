"""DistributedOptimizer as an object: state, class, names, and what it does not get wrong."""

import numpy as np
import pytest

from tests import workers
from tests.horovod import models

job = workers.Job(2, 3)
pair = workers.Job(2)


@job.check
def test_a_built_optimizer_keeps_state_iterations_exclusions_and_class():
    import keras

    import tf_lars.horovod as hvd

    x, y = models.data()
    model, inner = models.mlp(), keras.optimizers.AdamW(0.01, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_names=["bias"])
    models.train_whole(model, inner, x, y, epochs=1)
    before = [np.array(v) for v in inner.variables]
    optimizer = hvd.DistributedOptimizer(inner)
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert optimizer.built
    for old, new in zip(before, optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert optimizer.variables() == optimizer.variables
    assert int(optimizer.iterations) == 2
    ranks = models.train_ranks(model, optimizer, x, y, epochs=1)
    assert int(optimizer.iterations) == int(inner.iterations) == 4

    other, alone = models.mlp(), keras.optimizers.AdamW(0.01, weight_decay=0.1)
    alone.exclude_from_weight_decay(var_names=["bias"])
    np.testing.assert_allclose(
        ranks, models.train_whole(other, alone, x, y, epochs=2), atol=1e-6, rtol=0
    )


@pair.check
def test_the_original_optimizer_goes_on_working_alone():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    inner = keras.optimizers.SGD(1.0)
    optimizer = hvd.DistributedOptimizer(inner)
    alone, shared = keras.Variable([0.0]), keras.Variable([0.0])
    optimizer.build([alone, shared])
    gradient = tf.constant([float(hvd.rank())])
    inner.apply([gradient], [alone])
    optimizer.apply([gradient], [shared])
    assert float(alone[0]) == -hvd.rank()
    assert float(shared[0]) == -0.5
    assert type(optimizer.local) is keras.optimizers.SGD
    assert optimizer.local.iterations is inner.iterations


@pair.check
def test_copies_are_distributed_and_what_is_saved_is_plain():
    import copy

    import keras

    import tf_lars
    import tf_lars.horovod as hvd
    from tf_lars.horovod.distributed import Distributed

    for inner, name in (
        (keras.optimizers.SGD(0.1, momentum=0.9), "SGD"),
        (tf_lars.LARS(0.1), "tf_lars>LARS"),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "LossScaleOptimizer"),
    ):
        optimizer = hvd.DistributedOptimizer(inner, op=hvd.Sum)
        config = optimizer.get_config()
        copies = [
            copy.deepcopy(optimizer),
            optimizer.from_config(copy.deepcopy(config)),
            optimizer.__class__.from_config(copy.deepcopy(config)),
        ]
        for made in copies:
            assert isinstance(made, Distributed) and isinstance(made, type(inner))
            assert made.reduction.op == hvd.Sum
            assert made.get_config() == config
            assert made.iterations is not optimizer.iterations
        saved = keras.optimizers.serialize(optimizer)
        assert saved == keras.optimizers.serialize(inner)
        assert name in (saved["class_name"], saved["registered_name"])
        assert type(keras.optimizers.deserialize(saved)) is type(inner)


@pair.check
def test_an_optimizer_with_an_apply_of_its_own_is_not_left_out_silently():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    class Own(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            for gradient, variable in zip(grads, trainable_variables, strict=True):
                variable.assign_sub(gradient)

    optimizer = hvd.DistributedOptimizer(Own())
    with pytest.raises(RuntimeError, match="were not combined over the ranks"):
        optimizer.apply([tf.constant([1.0])], [keras.Variable([0.0])])


@pair.check
def test_layer_names_that_differ_between_ranks_do_not_stop_the_job():
    import keras

    import tf_lars.horovod as hvd

    if hvd.rank() == 0:  # as a rank that loads a checkpoint does
        models.mlp(), models.mlp()
        keras.optimizers.SGD()
    x, y = models.data()
    ranks = models.train_ranks(
        models.mlp(), hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), x, y
    )
    assert models.spread(ranks) == 0


@pair.check
def test_two_optimizers_of_equal_models_in_one_step_do_not_mix():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    variables = [keras.Variable([0.0]) for _ in range(2)]
    optimizers = [hvd.DistributedOptimizer(keras.optimizers.SGD(1.0)) for _ in range(2)]
    for optimizer, variable in zip(optimizers, variables, strict=True):
        optimizer.build([variable])

    @tf.function
    def step(factor):
        for k in range(2):
            optimizers[k].apply([factor * [k + 1.0]], [variables[k]])

    step(tf.constant([float(hvd.rank())]))
    assert [float(v[0]) for v in variables] == [-0.5, -1.0]


@pair.check
def test_fp8_ranges_are_the_largest_over_the_ranks():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    scale, weight = keras.Variable([0.0]), keras.Variable([0.0])
    scale.overwrite_with_gradient = True
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0))
    optimizer.build([scale, weight])
    gradient = tf.constant([float(hvd.rank())])
    optimizer.apply([gradient, gradient], [scale, weight])
    assert float(scale[0]) == 1.0
    assert float(weight[0]) == -0.5


@pair.check
def test_ranks_drift_apart_with_horovods_own_wrapper_and_agree_with_this_one():
    import horovod.tensorflow.keras as upstream
    import keras

    import tf_lars.horovod as hvd

    x, y = models.data()
    theirs = models.train_ranks(
        models.mlp(), upstream.DistributedOptimizer(keras.optimizers.SGD(0.1)), x, y
    )
    ours = models.train_ranks(
        models.mlp(), hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), x, y
    )
    assert models.spread(theirs) > 1e-3
    assert models.spread(ours) == 0


@pair.check
def test_a_rank_that_traces_a_step_anew_does_not_stop_the_job():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    model = models.mlp()
    model.add(hvd.SyncBatchNormalization())
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    x, y = models.data()

    @tf.function
    def tape_step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x))
        tape = hvd.DistributedGradientTape(tape)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    for rows in (8, 8 - 2 * hvd.rank(), 8):
        model.train_on_batch(x[:rows], y[:rows])
        tape_step(x[:rows])
    assert hvd.check_in_sync(model)


@pair.check
def test_a_rank_with_variables_still_to_create_does_not_stop_the_job():
    import keras

    import tf_lars.horovod as hvd

    x, y = models.data()
    model = models.mlp()
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, 0.9)), "mse")
    if hvd.rank() == 0:  # the metrics and the optimizer exist, as in a model that was loaded
        model.optimizer.build(model.trainable_variables)
        model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=8, verbose=0)
    assert hvd.check_in_sync(model)
