"""DistributedOptimizer: N ranks train as one process with the whole batch."""

import numpy as np
import pytest

from tests import workers
from tests.horovod import models

job = workers.Job(2, 3)
pair = workers.Job(2)


def assert_ranks_train_as_one(optimizer, wrap=None, reference=None, tolerance=1e-6, **options):
    import tf_lars.horovod as hvd

    wrap = wrap or hvd.DistributedOptimizer
    x, y = models.data()
    whole = models.train_whole(models.mlp(), (reference or optimizer)(), x, y)
    ranks = models.train_ranks(models.mlp(), wrap(optimizer()), x, y, **options)
    np.testing.assert_allclose(ranks, whole, atol=tolerance, rtol=0)
    assert models.spread(ranks) == 0


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
def test_every_keras_optimizer_trains_as_one_process():
    import keras

    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam"):
        assert_ranks_train_as_one(lambda cls=getattr(keras.optimizers, name): cls(0.05))
    for name in ("Ftrl", "Lion", "Lamb", "Muon", "Adafactor"):
        # Signs and square roots of near-zero values turn rounding into differences.
        assert_ranks_train_as_one(
            lambda cls=getattr(keras.optimizers, name): cls(0.01), tolerance=1e-3
        )


@job.check
def test_our_optimizers_train_as_one_process():
    import tf_lars

    for name in ("LARS", "LAMB"):
        assert_ranks_train_as_one(lambda cls=getattr(tf_lars, name): cls(learning_rate=0.1))


@job.check
def test_a_multi_optimizer_trains_as_one_process():
    from keras import optimizers
    from keras.src.optimizers.multi_optimizer import OptimizerMap

    def make():
        chosen = OptimizerMap(optimizers.SGD(0.1))
        chosen[".*bias"] = optimizers.Adam(0.01)
        return optimizers.MultiOptimizer(chosen)

    assert_ranks_train_as_one(make)


@job.check
def test_the_averaged_gradient_is_clipped():
    import keras

    for clip in ({"clipnorm": 0.05}, {"global_clipnorm": 0.05}, {"clipvalue": 0.01}):
        assert_ranks_train_as_one(lambda c=clip: keras.optimizers.SGD(0.5, **c))


@job.check
def test_moving_averages_and_weight_decay_agree_with_one_process():
    import keras

    assert_ranks_train_as_one(lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9))
    assert_ranks_train_as_one(lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1))


@job.check
def test_several_steps_in_one_execution_and_eager_steps_agree_with_one_process():
    import keras

    assert_ranks_train_as_one(lambda: keras.optimizers.SGD(0.1), steps_per_execution=2)
    assert_ranks_train_as_one(lambda: keras.optimizers.SGD(0.1), run_eagerly=True)


@job.check
def test_a_model_compiled_with_xla_runs_in_parts_and_agrees_with_one_process():
    import keras

    import tf_lars.horovod as hvd

    assert_ranks_train_as_one(lambda: keras.optimizers.Adam(0.01), jit_compile=True)
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

    x, y = models.data()
    whole = models.train_whole(models.mlp(), keras.optimizers.SGD(0.1, momentum=0.9), x, y)
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)
    )
    ranks = models.train_ranks(models.mlp(), optimizer, x, y, batch=12)
    np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)
    assert int(optimizer.iterations) == 4


@job.check
def test_backward_passes_add_up_or_average_and_count_one_iteration():
    import keras

    import tf_lars.horovod as hvd

    x, y = models.data()
    for average, rate in ((True, 0.1), (False, 0.05)):
        whole = models.train_whole(models.mlp(), keras.optimizers.SGD(0.1), x, y)
        for built in (False, True):
            model, inner = models.mlp(), keras.optimizers.SGD(rate)
            if built:
                inner.build(model.trainable_variables)
            optimizer = hvd.DistributedOptimizer(
                inner, backward_passes_per_step=2, average_aggregated_gradients=average
            )
            ranks = models.train_ranks(model, optimizer, x, y, batch=12)
            np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)
            assert int(optimizer.iterations) == 4


@job.check
def test_op_sum_and_predivision_give_the_sum_and_the_average():
    import keras

    import tf_lars.horovod as hvd

    assert_ranks_train_as_one(
        lambda: keras.optimizers.SGD(0.1 / hvd.size()),
        wrap=lambda optimizer: hvd.DistributedOptimizer(optimizer, op=hvd.Sum),
        reference=lambda: keras.optimizers.SGD(0.1),
    )
    assert_ranks_train_as_one(
        lambda: keras.optimizers.SGD(0.1),
        wrap=lambda optimizer: hvd.DistributedOptimizer(optimizer, gradient_predivide_factor=1.7),
    )


@job.check
def test_compression_loses_half_precision_only():
    import keras

    import tf_lars.horovod as hvd

    def wrap(optimizer):
        return hvd.DistributedOptimizer(optimizer, compression=hvd.Compression.fp16)

    assert_ranks_train_as_one(lambda: keras.optimizers.SGD(0.1), wrap=wrap, tolerance=1e-3)


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

    import tf_lars.horovod as hvd

    settings = [
        {"groups": 2},
        {"num_groups": 3},
        {"groups": 100},
        {"overlap": True},
        {"overlap": False},
        {"device_dense": "/cpu:0", "device_sparse": "/cpu:0", "name": "mine"},
    ]
    for setting in settings:
        assert_ranks_train_as_one(
            lambda: keras.optimizers.SGD(0.1),
            wrap=lambda optimizer, s=setting: hvd.DistributedOptimizer(optimizer, **s),
        )
    model = models.mlp()
    groups = [model.trainable_variables[:2], [model.trainable_variables[3]]]
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), groups=groups)
    x, y = models.data()
    ranks = models.train_ranks(model, optimizer, x, y)
    whole = models.train_whole(models.mlp(), keras.optimizers.SGD(0.1), x, y)
    np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)


@job.check
def test_sparse_gradients_mixed_with_dense_ones_agree_with_one_process():
    import keras

    import tf_lars.horovod as hvd

    x, y = models.words()
    for momentum in (0.0, 0.9):
        whole = models.train_whole(
            models.embedding_model(), keras.optimizers.SGD(0.5, momentum), x, y
        )
        for setting in ({}, {"sparse_as_dense": True}, {"groups": 2}):
            optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.5, momentum), **setting)
            ranks = models.train_ranks(models.embedding_model(), optimizer, x, y)
            np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)


@job.check
def test_sparse_gradients_under_accumulation_agree_with_one_process():
    import keras

    import tf_lars.horovod as hvd

    x, y = models.words()
    whole = models.train_whole(models.embedding_model(), keras.optimizers.SGD(0.5), x, y)
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(0.5), backward_passes_per_step=2, average_aggregated_gradients=True
    )
    ranks = models.train_ranks(models.embedding_model(), optimizer, x, y, batch=12)
    np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)


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
