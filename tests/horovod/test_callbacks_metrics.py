"""The callback that makes the ranks log the same numbers, those of all rows together."""

from tests import workers
from tests.horovod.callback_cases import compile_, gathered, labelled_rows

job = workers.Job(2, 3)


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
    compile_(model, optimizer=keras.optimizers.SGD(0.0), metrics=metrics)
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
    (x, y), (vx, vy) = labelled_rows(1, 60), labelled_rows(2, 60)
    averaged = _fit_with_averages(model, (x[mine], y[mine]), (vx[mine], vy[mine]))

    whole = model.fit(x, y, batch_size=60, verbose=0, validation_data=(vx, vy)).history
    assert set(averaged) == {"loss", "accuracy", "top2", *("val_loss", "val_accuracy", "val_top2")}
    for key, values in averaged.items():
        assert np.allclose(values, whole[key], rtol=1e-6), key
    assert len({str(history) for history in gathered(averaged)}) == 1


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

    all_scores, all_labels = (np.concatenate(p) for p in zip(*gathered(shard), strict=True))
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
    compile_(model)
    history = model.fit(
        *labelled_rows(0), verbose=0, callbacks=[hvd.callbacks.MetricAverageCallback()]
    )
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
    shard = labelled_rows(0, rows)[0], np.full(rows, min(hvd.rank(), 2))
    averaged = _fit_with_averages(model, shard, None)
    counts = np.array([4 * (r + 1) for r in range(hvd.size())])
    assert np.allclose(averaged["largest"], np.average(range(hvd.size()), weights=counts))


@job.check
def test_ranks_with_different_logs_all_raise_instead_of_hanging():
    import tf_lars.horovod as hvd

    model = _linear(["accuracy"])
    try:
        _fit_with_averages(model, labelled_rows(0), labelled_rows(1) if hvd.rank() == 0 else None)
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
    history = model.fit(*labelled_rows(hvd.rank(), 20), epochs=30, verbose=0, callbacks=callbacks)
    assert len(set(gathered(len(history.epoch)))) == 1
