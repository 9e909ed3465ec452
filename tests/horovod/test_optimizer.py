"""DistributedOptimizer: N ranks train as one process with the whole batch."""

import functools

import numpy as np
import pytest

from tests import workers
from tests.horovod import models

job = workers.Job(2, 3)
pair = workers.Job(2)


def assert_updates_agree(make, wrap=None, reference=None, tolerance=1e-6, steps=3):
    """A few updates with gradients that differ by rank, against one process with their mean."""
    import tensorflow as tf

    import tf_lars.horovod as hvd

    rng = np.random.default_rng(0)
    shapes = [(4, 3), (3,)]
    gradients = rng.normal(size=(steps, hvd.size(), 15)).astype("float32")
    start = rng.normal(size=15).astype("float32")

    def train(optimizer, gradients):
        import keras

        values = np.split(start, [12])
        variables = [
            keras.Variable(v.reshape(shape), name=name)
            for v, shape, name in zip(values, shapes, ("kernel", "bias"), strict=True)
        ]
        for gradient in gradients:
            parts = np.split(gradient, [12])
            optimizer.apply(
                [tf.constant(p.reshape(s)) for p, s in zip(parts, shapes, strict=True)], variables
            )
        return models.flat(variables)

    wrap = wrap or hvd.DistributedOptimizer
    ranks = train(wrap(make()), gradients[:, hvd.rank()])
    whole = train((reference or make)(), gradients.mean(axis=1))
    np.testing.assert_allclose(ranks, whole, atol=tolerance, rtol=0)
    assert models.spread(ranks) == 0


def assert_fit_agrees(make, wrap=None, reference=None, inputs=None, model=models.mlp, **options):
    import tf_lars.horovod as hvd

    wrap = wrap or hvd.DistributedOptimizer
    x, y = inputs or models.data()
    batch = options.pop("batch", 24)
    whole = models.train_whole(model(), (reference or make)(), x, y)
    ranks = models.train_ranks(model(), wrap(make()), x, y, batch=batch, **options)
    np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)
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
