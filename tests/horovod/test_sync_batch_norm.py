"""SyncBatchNormalization: N ranks compute what one process computes with the whole batch."""

import pytest

from tests import workers

job = workers.Job(2, 3, env={"HOROVOD_DYNAMIC_PROCESS_SETS": "1"})


def _rows(weights=(3, 2, 4)):
    """This rank's slice of the whole batch, and the whole batch's size."""
    import numpy as np

    import tf_lars.horovod as hvd

    edges = np.cumsum([0, *weights[: hvd.size()]])
    return slice(edges[hvd.rank()], edges[hvd.rank() + 1]), int(edges[-1])


def _network(normalization, dtype="float32", **options):
    """Convolutions and dense layers with two normalizations, the same on every rank."""
    import keras

    keras.utils.set_random_seed(7)
    options = {"momentum": 0.8, "dtype": dtype, "gamma_initializer": "random_uniform", **options}
    x = inputs = keras.Input((6, 6, 3), dtype=dtype)
    x = keras.layers.Conv2D(4, 3, dtype=dtype)(x)
    x = keras.layers.Activation("tanh", dtype=dtype)(normalization(**options)(x))
    x = keras.layers.Dense(5, dtype=dtype)(keras.layers.Flatten(dtype=dtype)(x))
    x = normalization(**options)(x)
    return keras.Model(inputs, keras.layers.Dense(2, dtype=dtype)(x))


def _forward_and_backward(model, x, y, total):
    """Outputs, gradients of Σ(error²)/total, and the weights after (moving statistics)."""
    import tensorflow as tf

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = model(x, training=True)
            loss = tf.reduce_sum(tf.square(outputs - y)) / total
        return outputs, tape.gradient(loss, [x, *model.trainable_weights])

    return *step(tf.constant(x), tf.constant(y)), model.non_trainable_weights


def _compare(dtype, tolerance, **options):
    import horovod.tensorflow as horovod
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    mine, total = _rows()
    generator = np.random.default_rng(0)
    x = generator.normal(3, 2, (total, 6, 6, 3)).astype(dtype)
    y = generator.normal(size=(total, 2)).astype(dtype)
    model = _network(hvd.SyncBatchNormalization, dtype, **options)
    outputs, (dx, *gradients), moving = _forward_and_backward(model, x[mine], y[mine], total)
    gradients = [horovod.allreduce(gradient, op=horovod.Sum) for gradient in gradients]

    one = _network(keras.layers.BatchNormalization, dtype, **options)
    whole, (whole_dx, *whole_gradients), whole_moving = _forward_and_backward(one, x, y, total)

    def close(a, b):
        scale = max(1.0, float(np.max(np.abs(b))))
        return np.max(np.abs(np.asarray(a) - np.asarray(b))) <= tolerance * scale

    assert close(outputs, whole[mine])
    assert close(dx, whole_dx[mine])
    assert len(gradients) == 10 - 2 * (not options.get("scale", True))
    assert all(map(close, gradients, whole_gradients))
    assert len(moving) == 4 and all(map(close, moving, whole_moving))


@job.check
def test_forward_and_backward_of_unequal_shards_equal_one_process():

    _compare("float32", 1e-6)


@job.check
def test_forward_and_backward_in_float64_equal_one_process_to_its_precision():

    _compare("float64", 1e-13)


@job.check
def test_without_scale_and_with_a_large_mean_the_variance_keeps_its_precision():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    _compare("float32", 1e-6, scale=False)
    mine, total = _rows()
    x = np.random.default_rng(1).normal(1000, 1, (total, 50, 2)).astype("float32")
    layer = hvd.SyncBatchNormalization(momentum=0.0)
    layer(x[mine], training=True)
    expected = x.astype("float64").var((0, 1))
    assert np.allclose(layer.moving_variance, expected, rtol=1e-5)
    assert isinstance(layer, keras.layers.BatchNormalization)


@job.check
def test_masked_positions_do_not_count_even_when_a_rank_has_none_left():
    import horovod.tensorflow as horovod
    import numpy as np
    import tensorflow as tf

    import tf_lars.horovod as hvd

    mine, total = _rows()
    generator = np.random.default_rng(2)
    x = generator.normal(size=(total, 4, 3)).astype("float32")
    keep = generator.uniform(size=(total, 4)) < 0.6
    if hvd.rank() == 0:
        keep[mine] = False
    keep = np.concatenate(horovod.allgather_object(keep[mine]))
    seen = x[keep].astype("float64")
    layer = hvd.SyncBatchNormalization(momentum=0.0, center=False, scale=False, epsilon=1e-3)
    inputs = tf.constant(x[mine])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True, mask=tf.constant(keep[mine]))
        loss = tf.reduce_sum(tf.where(keep[mine][..., None], outputs, 0.0) ** 3)
    assert np.allclose(layer.moving_mean, seen.mean(0), atol=1e-6)
    assert np.allclose(layer.moving_variance, seen.var(0), atol=1e-6)
    gradient = tape.gradient(loss, inputs).numpy()
    assert np.all(gradient[~keep[mine]] == 0)

    one = tf.constant(seen)
    with tf.GradientTape() as tape:
        tape.watch(one)
        mean, variance = tf.nn.moments(one, [0])
        loss = tf.reduce_sum(((one - mean) / tf.sqrt(variance + 1e-3)) ** 3)
    whole = np.zeros(x.shape)
    whole[keep] = tape.gradient(loss, one)
    assert np.allclose(gradient, whole[mine], atol=1e-5)


@job.check
def test_half_precision_inputs_have_float32_statistics():
    import keras
    import numpy as np
    import tensorflow as tf

    import tf_lars.horovod as hvd

    mine, total = _rows()
    x = np.random.default_rng(3).normal(200, 100, (total, 5, 2))
    for policy in ("mixed_float16", "mixed_bfloat16"):
        half = tf.cast(x, keras.DTypePolicy(policy).compute_dtype)
        layer = hvd.SyncBatchNormalization(momentum=0.0, dtype=policy)
        outputs = layer(half[mine], training=True)
        assert outputs.dtype == half.dtype and layer.moving_mean.dtype == "float32"
        exact = tf.cast(half, "float64").numpy()
        assert np.allclose(layer.moving_variance, exact.var((0, 1)), rtol=1e-5)


@job.check
def test_a_process_set_shares_statistics_among_its_ranks_only():
    import numpy as np

    import tf_lars.horovod as hvd

    mine, total = _rows()
    x = np.random.default_rng(4).normal(size=(total, 3)).astype("float32")
    members = list(range(hvd.size() - 1))
    group = hvd.add_process_set(members)
    layer = hvd.SyncBatchNormalization(momentum=0.0, process_set=group)
    again = hvd.SyncBatchNormalization.from_config(layer.get_config())
    assert again.process_set == members
    rows = x[: 3 if hvd.size() == 2 else 5] if hvd.rank() in members else x[mine]
    for normalization in (layer, again):
        normalization(x[mine], training=True)
        assert np.allclose(normalization.moving_mean, rows.mean(0), atol=1e-6)
        assert np.allclose(normalization.moving_variance, rows.var(0), atol=1e-6)
    hvd.remove_process_set(group)
    try:
        hvd.SyncBatchNormalization(process_set=members)(x, training=True)
    except ValueError as error:
        assert f"call hvd.add_process_set({members})" in str(error)
    else:
        raise AssertionError("a process set that is gone was accepted")


@job.check
def test_fit_of_all_ranks_ends_with_the_weights_of_one_process():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    n = hvd.size()
    generator = np.random.default_rng(5)
    x = generator.normal(size=(8 * n, 6, 6, 3)).astype("float32")
    y = generator.normal(size=(8 * n, 2)).astype("float32")
    whole = _network(keras.layers.BatchNormalization)
    whole.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    whole.fit(x, y, batch_size=4 * n, epochs=2, shuffle=False, verbose=0)

    model = _network(hvd.SyncBatchNormalization)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.05, momentum=0.9))
    model.compile(optimizer, "mse", jit_compile="auto")
    assert not model.jit_compile
    mine = [half + 4 * hvd.rank() + row for half in (0, 4 * n) for row in range(4)]
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(x[mine], y[mine], callbacks=[broadcast], **options)
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)


@job.check
def test_a_compiled_step_is_refused_with_a_sentence():
    import numpy as np
    import tensorflow as tf

    import tf_lars.horovod as hvd

    layer = hvd.SyncBatchNormalization()
    layer.build((None, 3))
    try:
        tf.function(lambda x: layer(x, training=True), jit_compile=True)(np.ones((4, 3), "float32"))
    except RuntimeError as error:
        assert "jit_compile=False" in str(error)
    else:
        raise AssertionError("no error")


def test_one_rank_alone_is_keras_batch_normalization(tmp_path):
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    layer = hvd.SyncBatchNormalization()
    if not hvd.is_initialized():
        with pytest.raises(ValueError, match=r"needs hvd.init\(\)"):
            layer(np.ones((4, 3), "float32"), training=True)
    hvd.init()
    x, y = np.random.default_rng(0).normal(size=(4, 6, 6, 3)), np.zeros((4, 2))
    x, y = x.astype("float32"), y.astype("float32")
    ours, theirs = (
        keras.tree.flatten(_forward_and_backward(_network(normalization), x, y, 4))
        for normalization in (hvd.SyncBatchNormalization, keras.layers.BatchNormalization)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a, b)

    model = _network(hvd.SyncBatchNormalization)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(x), model(x))
    assert type(loaded.layers[2]) is hvd.SyncBatchNormalization
    assert loaded.layers[2].momentum == 0.8


def test_arguments_that_make_no_sense_are_refused():
    import tf_lars.horovod as hvd

    for fused in (True, None):
        with pytest.raises(ValueError, match="no fused kernel"):
            hvd.SyncBatchNormalization(fused=fused)
    with pytest.raises(ValueError, match=r"tf\.distribute"):
        hvd.SyncBatchNormalization(synchronized=True)
