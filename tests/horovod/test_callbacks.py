"""Callbacks that make the ranks start alike and log the same numbers."""

import pytest

from tests import workers

job = workers.Job(2, 3)


def _classifier(seed, built=True, dropout=0.0):
    import keras

    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(5, activation="relu"), keras.layers.Dropout(dropout)]
    layers += [keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    return keras.Sequential(([keras.Input((4,))] if built else []) + layers)


def _data(seed, rows=12):
    import numpy as np

    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, 4)).astype("float32"), generator.integers(0, 3, rows)


def _gather(value):
    import horovod.tensorflow as horovod

    return horovod.allgather_object(value)


def _compile(model, **options):
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(options.pop("optimizer", "adam"), loss, **options)


@job.check
def test_broadcast_gives_all_ranks_the_roots_model_and_optimizer_before_the_first_step():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    model = _classifier(seed=hvd.rank())
    _compile(model, optimizer=keras.optimizers.Adam(0.1 * (hvd.rank() + 1)))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(7 * (hvd.rank() + 1))
    seen = {}

    class AtFirstStep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.setdefault("weights", [w.copy() for w in model.get_weights()])
            seen.setdefault("rate", float(model.optimizer.learning_rate))
            seen.setdefault("iterations", int(model.optimizer.iterations))

    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(*_data(0), verbose=0, callbacks=[broadcast, AtFirstStep()])
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
    _compile(model)
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
    _compile(model, optimizer=keras.optimizers.SGD(0.0))
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    x, y = _data(0)
    history = model.fit(x, y, batch_size=12, shuffle=False, verbose=0, callbacks=[callback])
    # Nothing moves at rate 0, and the first loss is already that of the root's weights.
    assert len(set(_gather(history.history["loss"][0]))) == 1
    weights = _gather(model.trainable_weights[0].numpy())
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
    model.fit(*_data(0), verbose=0, callbacks=[callback])
    kernels = _gather(model.inner.kernel.numpy())
    assert all(np.array_equal(kernel, kernels[0]) for kernel in kernels)


@job.check
def test_broadcast_leaves_seeds_and_local_variables_apart():
    import tf_lars.horovod as hvd

    model = _classifier(seed=hvd.rank(), dropout=0.5)
    _compile(model)
    local = model.layers[0].bias
    local.assign([float(hvd.rank())] * 5)
    seeds = [v for v in model.variables if "seed" in v.name]
    assert len(seeds) == 1
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=[local])
    callback.set_model(model)
    callback.on_train_begin()
    assert local.numpy()[0] == hvd.rank()
    assert len({tuple(seed) for seed in _gather(seeds[0].numpy())}) == hvd.size()


@job.check
def test_broadcast_pairs_variables_by_position_when_layer_names_differ():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    for _ in range(hvd.rank()):  # as a rank that has loaded a checkpoint before
        _classifier(seed=0)
    model = _classifier(seed=hvd.rank())
    _compile(model, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    callback.set_model(model)
    callback.on_train_begin()
    weights = _gather(model.get_weights())
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


def _fit_with_averages(model, shard, validation):
    import tf_lars.horovod as hvd

    return model.fit(
        *shard,
        batch_size=4,
        shuffle=False,
        verbose=0,
        validation_data=validation,
        callbacks=[hvd.callbacks.MetricAverageCallback()],
    ).history


def _linear(metrics):
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    _compile(model, optimizer=keras.optimizers.SGD(0.0), metrics=metrics)
    return model


@job.check
def test_metrics_over_unequal_shards_equal_one_process_with_all_rows():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    model = _linear(metrics)
    edges = [0, 7, 60] if hvd.size() == 2 else [0, 7, 20, 60]
    mine = slice(edges[hvd.rank()], edges[hvd.rank() + 1])
    (x, y), (vx, vy) = _data(1, 60), _data(2, 60)
    averaged = _fit_with_averages(model, (x[mine], y[mine]), (vx[mine], vy[mine]))

    whole = model.fit(x, y, batch_size=60, verbose=0, validation_data=(vx, vy)).history
    assert set(averaged) == {"loss", "accuracy", "top2", *("val_loss", "val_accuracy", "val_top2")}
    for key, values in averaged.items():
        assert np.allclose(values, whole[key], rtol=1e-6), key
    assert len({str(history) for history in _gather(averaged)}) == 1


@job.check
def test_metrics_that_are_no_means_are_computed_from_the_states_of_all_ranks():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    generator = np.random.default_rng(hvd.rank())
    rows = 20 + 9 * hvd.rank()
    scores, labels = generator.uniform(size=rows), generator.integers(0, 2, rows)
    metrics = [keras.metrics.AUC(name="auc"), keras.metrics.Precision(name="precision")]
    metrics += [keras.metrics.F1Score(name="f1", threshold=0.5)]
    model = keras.Sequential([keras.Input((1,)), keras.layers.Activation("linear")])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=metrics)
    shard = scores.reshape(-1, 1).astype("float32"), labels.reshape(-1, 1)
    averaged = _fit_with_averages(model, shard, shard)

    all_scores, all_labels = (np.concatenate(p) for p in zip(*_gather(shard), strict=True))
    whole = model.evaluate(all_scores, all_labels, verbose=0, return_dict=True)
    for key, expected in whole.items():
        for prefix in ("", "val_"):
            assert np.allclose(averaged[prefix + key][0], expected, rtol=1e-5), key


@job.check
def test_logs_of_a_train_step_of_ones_own_are_averaged_plainly():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    class Model(keras.Model):
        def train_step(self, data):
            return {"loss": 2.0 + hvd.rank(), "signal": 10.0 * hvd.rank()}

    inputs = keras.Input((4,))
    model = Model(inputs, keras.layers.Dense(3)(inputs))
    _compile(model)
    history = model.fit(*_data(0), verbose=0, callbacks=[hvd.callbacks.MetricAverageCallback()])
    mean_rank = (hvd.size() - 1) / 2
    assert np.allclose(history.history["loss"], 2 + mean_rank)
    assert np.allclose(history.history["signal"], 10 * mean_rank)


@job.check
def test_a_metric_whose_state_does_not_add_up_is_weighted_by_examples():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    class Largest(keras.metrics.Metric):
        def __init__(self, name="largest"):
            super().__init__(name=name)
            self.seen = self.add_variable((), "zeros", aggregation="mean", name="seen")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.seen.assign(
                keras.ops.maximum(self.seen, keras.ops.cast(keras.ops.max(y_true), "float32"))
            )

        def result(self):
            return self.seen.value + 0.0

    model = _linear([Largest()])
    rows = 4 * (hvd.rank() + 1)
    shard = _data(0, rows)[0], np.full(rows, min(hvd.rank(), 2))
    averaged = _fit_with_averages(model, shard, None)
    counts = np.array([4 * (r + 1) for r in range(hvd.size())])
    assert np.allclose(averaged["largest"], np.average(range(hvd.size()), weights=counts))


@job.check
def test_ranks_with_different_logs_all_raise_instead_of_hanging():
    import tf_lars.horovod as hvd

    model = _linear(["accuracy"])
    try:
        _fit_with_averages(model, _data(0), _data(1) if hvd.rank() == 0 else None)
    except ValueError as error:
        assert "rank 1 logs {}" in str(error) and "validation data" in str(error)
    else:
        raise AssertionError("no error on this rank")


@job.check
def test_early_stopping_decides_alike_on_all_ranks():
    import keras

    import tf_lars.horovod as hvd

    model = _linear(["accuracy"])
    model.optimizer.learning_rate = 0.5
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    callbacks += [
        hvd.callbacks.MetricAverageCallback(),
        keras.callbacks.EarlyStopping("loss", patience=1, min_delta=0.05),
    ]
    history = model.fit(*_data(hvd.rank(), 20), epochs=30, verbose=0, callbacks=callbacks)
    assert len(set(_gather(len(history.epoch)))) == 1


@pytest.mark.parametrize("root", [-1, 0.5, "0"])
def test_a_root_that_is_no_rank_is_refused(root):
    import tf_lars.horovod as hvd

    with pytest.raises(ValueError, match=r"root_rank.*got"):
        hvd.callbacks.BroadcastGlobalVariablesCallback(root)


def test_local_variables_that_are_none_are_refused():
    import tf_lars.horovod as hvd

    with pytest.raises(ValueError, match="local_variables takes variables, got str"):
        hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=["kernel"])
