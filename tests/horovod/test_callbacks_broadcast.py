"""The callback that makes the ranks start alike."""

import pytest

from tests import workers
from tests.horovod.callback_cases import compile_, gathered, labelled_rows

job = workers.Job(2, 3)


def _classifier(seed, built=True, dropout=0.0):
    import keras

    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(5, activation="relu"), keras.layers.Dropout(dropout)]
    layers += [keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    return keras.Sequential(([keras.Input((4,))] if built else []) + layers)


@job.check
def test_broadcast_gives_all_ranks_the_roots_model_and_optimizer_before_the_first_step():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    model = _classifier(seed=hvd.rank())
    compile_(model, optimizer=keras.optimizers.Adam(0.1 * (hvd.rank() + 1)))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(7 * (hvd.rank() + 1))
    seen = {}

    class AtFirstStep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.setdefault("weights", [w.copy() for w in model.get_weights()])
            seen.setdefault("rate", float(model.optimizer.learning_rate))
            seen.setdefault("iterations", int(model.optimizer.iterations))

    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(*labelled_rows(0), verbose=0, callbacks=[broadcast, AtFirstStep()])
    for weight, root in zip(seen["weights"], _classifier(seed=0).get_weights(), strict=True):
        assert np.array_equal(weight, root)
    assert seen["rate"] == np.float32(0.1)
    assert seen["iterations"] == 7
    assert broadcast.broadcast_done


@job.check
def test_broadcast_from_another_root_than_zero():
    import numpy as np

    import tf_lars.horovod as hvd

    model = _classifier(seed=hvd.rank())
    compile_(model)
    model.set_weights(_classifier(seed=hvd.rank()).get_weights())
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(hvd.size() - 1)
    callback.set_model(model)
    callback.on_train_begin()
    expected = _classifier(seed=hvd.size() - 1).get_weights()
    assert all(map(np.array_equal, model.get_weights(), expected))


@job.check
def test_broadcast_of_a_model_that_fit_builds_comes_before_its_first_update():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    model = _classifier(seed=hvd.rank(), built=False)
    compile_(model, optimizer=keras.optimizers.SGD(0.0))
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    x, y = labelled_rows(0)
    history = model.fit(x, y, batch_size=12, shuffle=False, verbose=0, callbacks=[callback])
    # Nothing moves at rate 0, and the first loss is already that of the root's weights.
    assert len(set(gathered(history.history["loss"][0]))) == 1
    weights = gathered(model.trainable_weights[0].numpy())
    assert all(np.array_equal(w, weights[0]) for w in weights)


@job.check
def test_broadcast_of_a_model_that_its_train_step_builds_comes_after_the_first_step():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(3)

        def train_step(self, data):
            return {"sum": keras.ops.sum(self.inner(data[0]))}

    keras.utils.set_random_seed(hvd.rank())
    model = Model()
    model.compile("sgd")
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(*labelled_rows(0), verbose=0, callbacks=[callback])
    kernels = gathered(model.inner.kernel.numpy())
    assert all(np.array_equal(kernel, kernels[0]) for kernel in kernels)


@job.check
def test_broadcast_leaves_seeds_and_local_variables_apart():
    import tf_lars.horovod as hvd

    model = _classifier(seed=hvd.rank(), dropout=0.5)
    compile_(model)
    local = model.layers[0].bias
    local.assign([float(hvd.rank())] * 5)
    seeds = [v for v in model.variables if "seed" in v.name]
    assert len(seeds) == 1
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=[local])
    callback.set_model(model)
    callback.on_train_begin()
    assert local.numpy()[0] == hvd.rank()
    assert len({tuple(seed) for seed in gathered(seeds[0].numpy())}) == hvd.size()


@job.check
def test_broadcast_pairs_variables_by_position_when_layer_names_differ():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    for _ in range(hvd.rank()):  # as a rank that has loaded a checkpoint before
        _classifier(seed=0)
    model = _classifier(seed=hvd.rank())
    compile_(model, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    callback.set_model(model)
    callback.on_train_begin()
    weights = gathered(model.get_weights())
    assert all(all(map(np.array_equal, w, weights[0])) for w in weights)


@job.check
def test_broadcast_keeps_every_type_bit_for_bit():
    import keras
    import numpy as np
    import tensorflow as tf

    import tf_lars.horovod as hvd
    from tf_lars.horovod.variables import broadcast_variables

    types = (tf.float32, tf.bfloat16, tf.float16, tf.float64, tf.int32, tf.int64, tf.uint32)
    variables = [tf.Variable(tf.cast(tf.range(6) + 6 * hvd.rank(), t)) for t in types]
    variables += [tf.Variable([hvd.rank() == 0, hvd.rank() == 1]), tf.Variable(tf.zeros([0, 3]))]
    variables += [keras.Variable(float(hvd.rank()))]
    broadcast_variables(variables, 1)
    for variable in variables[: len(types)]:
        assert np.array_equal(variable.numpy().astype(int), range(6, 12))
    assert variables[-3].numpy().tolist() == [False, True]
    assert float(variables[-1]) == 1.0

    variables[0].assign_add(tf.fill([6], float(hvd.rank())))
    tf.function(lambda: broadcast_variables(variables, 0))()
    assert np.array_equal(variables[0].numpy(), range(6, 12))


@pytest.mark.parametrize("root", [-1, 0.5, "0"])
def test_a_root_that_is_no_rank_is_refused(root):
    import tf_lars.horovod as hvd

    with pytest.raises(ValueError, match=r"root_rank.*got"):
        hvd.callbacks.BroadcastGlobalVariablesCallback(root)


def test_local_variables_that_are_none_are_refused():
    import tf_lars.horovod as hvd

    with pytest.raises(ValueError, match="local_variables takes variables, got str"):
        hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=["kernel"])
