"""DistributedGradientTape in training loops of one's own."""

import numpy as np
import pytest

from tests import workers
from tests.horovod import models

pair = workers.Job(2)


def loss_of(model, x, y):
    import keras

    return keras.ops.mean(keras.losses.mean_squared_error(y, model(x)))


@workers.Job(2, 3).check
def test_gradients_of_keras_variables_are_those_of_the_whole_batch():
    import tensorflow as tf

    import tf_lars.horovod as hvd

    x, y = models.data()
    model = models.mlp()
    with tf.GradientTape() as whole:
        loss = loss_of(model, x, y)
    expected = whole.gradient(loss, model.trainable_variables)

    mine = [models.shard(a, hvd.rank(), hvd.size()) for a in (x, y)]
    with tf.GradientTape() as tape:
        loss = loss_of(model, *mine)
    tape = hvd.DistributedGradientTape(tape)
    assert isinstance(tape, tf.GradientTape)
    gradients = tape.gradient(loss, model.trainable_variables)
    np.testing.assert_allclose(models.flat(gradients), models.flat(expected), atol=1e-6, rtol=0)

    with hvd.DistributedGradientTape(tf.GradientTape()) as tape:  # wrapped before it records
        loss = loss_of(model, *mine)
    gradients = tape.gradient(loss, model.trainable_variables)
    np.testing.assert_allclose(models.flat(gradients), models.flat(expected), atol=1e-6, rtol=0)


@pair.check
def test_a_compiled_loop_trains_as_one_process():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    def train(x, y, wrap):
        model, optimizer = models.mlp(), keras.optimizers.SGD(0.1, momentum=0.9)

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = loss_of(model, x, y)
            gradients = wrap(tape).gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        for i in range(0, len(x), len(x) // 2):
            step(x[i : i + len(x) // 2], y[i : i + len(x) // 2])
        return models.flat(model.trainable_variables)

    x, y = models.data()
    whole = train(x, y, lambda tape: tape)
    mine = [models.shard(a, hvd.rank(), hvd.size()) for a in (x, y)]
    ranks = train(*mine, hvd.DistributedGradientTape)
    np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)
    assert models.spread(ranks) == 0


@pair.check
def test_a_persistent_tape_gives_several_gradients_and_takes_nested_sources():
    import tensorflow as tf

    import tf_lars.horovod as hvd

    a, b = tf.Variable(2.0), tf.Variable(3.0)

    @tf.function
    def both():
        with tf.GradientTape(persistent=True) as tape:
            first = a * b * (hvd.rank() + 1.0)
            second = a * a
        tape = hvd.DistributedGradientTape(tape)
        return tape.gradient(first, {"a": a, "b": [b]}), tape.gradient(second, a)

    nested, single = both()
    assert float(nested["a"]) == 4.5
    assert float(nested["b"][0]) == 3.0
    assert float(single) == 4.0


@pair.check
def test_settings_reach_the_reduction():
    import tensorflow as tf

    import tf_lars.horovod as hvd

    v = tf.Variable([1.0, 2.0])

    def gradient(**settings):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(v * (hvd.rank() + 1.0))
        return hvd.DistributedGradientTape(tape, **settings).gradient(y, [v])[0].numpy().tolist()

    assert gradient() == [1.5, 1.5]
    assert gradient(op=hvd.Sum) == [3.0, 3.0]
    assert gradient(compression=hvd.Compression.fp16) == [1.5, 1.5]
    assert gradient(gradient_predivide_factor=2.0) == [1.5, 1.5]
    assert gradient(groups=1) == [1.5, 1.5]
    with pytest.raises(ValueError, match="MPI"):
        gradient(op=hvd.Adasum)
    with pytest.raises(ValueError, match="GradientTape"):
        hvd.DistributedGradientTape("tape")


@pair.check
def test_local_sources_keep_their_gradient():
    import tensorflow as tf

    import tf_lars.horovod as hvd

    model = models.mlp()
    x, y = models.data()
    mine = [models.shard(a, hvd.rank(), hvd.size()) for a in (x, y)]
    with tf.GradientTape(persistent=True) as tape:
        loss = loss_of(model, *mine)
    plain = tape.gradient(loss, model.trainable_variables)
    partial = hvd.PartialDistributedGradientTape(
        tape, local_layers=model.layers[0], scale_local_gradients=False
    )
    local, combined = partial.get_local_and_global_gradients(loss, model.trainable_variables)
    assert len(local) == len(combined) == 2
    np.testing.assert_array_equal(local[0][1], plain[0])
    assert models.spread(models.flat([g for _, g in local])) > 0
    assert models.spread(models.flat([g for _, g in combined])) == 0


@pair.check
def test_missing_and_sparse_gradients_are_kept_apart():
    import tensorflow as tf

    import tf_lars.horovod as hvd

    table, unused = tf.Variable(tf.ones([4, 2])), tf.Variable(1.0)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(tf.gather(table, [hvd.rank(), 3]))
    tape = hvd.DistributedGradientTape(tape)
    sparse, missing = tape.gradient(y, [table, unused])
    assert missing is None
    assert isinstance(sparse, tf.IndexedSlices)
    dense = tf.convert_to_tensor(sparse).numpy()
    np.testing.assert_array_equal(dense, [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [1.0, 1.0]])
