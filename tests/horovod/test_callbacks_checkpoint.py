"""Saving the best model from all ranks, and batch-normalization statistics."""

import pytest

from tests import workers

job = workers.Job(2)


def _model():
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def _data():
    import numpy as np

    import tf_lars.horovod as hvd

    x = np.random.default_rng(hvd.rank()).normal(1 + hvd.rank(), 1 + hvd.rank(), (64, 4))
    return x.astype("float32"), x.sum(1, keepdims=True).astype("float32")


@job.check
def test_best_model_is_written_by_rank_zero_while_the_others_wait():
    import pathlib
    import tempfile

    import horovod.tensorflow as horovod
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    folder = horovod.broadcast_object(tempfile.mkdtemp())
    own = pathlib.Path(folder, f"rank{hvd.rank()}.keras")
    checkpoint = hvd.callbacks.BestModelCheckpoint(monitor="loss")
    checkpoint.filepath = str(own)
    seen = []

    class After(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(pathlib.Path(folder, "rank0.keras").exists())

    model = _model()
    average = hvd.callbacks.MetricAverageCallback()
    history = model.fit(*_data(), epochs=3, verbose=0, callbacks=[average, checkpoint, After()])
    assert seen == [True] * 3
    assert own.exists() == (hvd.rank() == 0)
    assert checkpoint.best == min(history.history["loss"])
    saved = keras.saving.load_model(pathlib.Path(folder, "rank0.keras"))
    if hvd.rank() == 0 and checkpoint.best == history.history["loss"][-1]:
        assert all(map(np.array_equal, saved.get_weights(), model.get_weights()))


@job.check
def test_all_ranks_learn_that_rank_zero_could_not_write():
    import pathlib

    import tf_lars.horovod as hvd

    blocked = pathlib.Path(__file__, "folder", "best.keras")  # below a file: cannot be made
    checkpoint = hvd.callbacks.BestModelCheckpoint(monitor="loss", filepath=str(blocked))
    try:
        _model().fit(*_data(), verbose=0, callbacks=[checkpoint])
    except (OSError, RuntimeError) as error:
        assert hvd.rank() == 0 or "rank 0 could not save" in str(error)
    else:
        raise AssertionError("no error on this rank")


@job.check
def test_batch_norm_statistics_are_the_mean_over_the_ranks_in_validation_and_after():
    import horovod.tensorflow as horovod
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    model = _model()
    layer = model.layers[0]
    before, during = [], []

    class BeforeEvaluation(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            before.append((layer.moving_mean.numpy(), layer.moving_variance.numpy()))

    class DuringEvaluation(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            during.append((layer.moving_mean.numpy(), layer.moving_variance.numpy()))

    callbacks = [
        BeforeEvaluation(),
        hvd.callbacks.BatchNormAverageCallback(),
        DuringEvaluation(),
    ]
    model.fit(*_data(), verbose=0, validation_data=_data(), callbacks=callbacks)
    everyones = horovod.allgather_object(before[0])
    assert not np.allclose(everyones[0][0], everyones[1][0])
    assert np.allclose(during[0], np.mean(everyones, axis=0))
    after = horovod.allgather_object((layer.moving_mean.numpy(), layer.moving_variance.numpy()))
    assert all(np.array_equal(statistics, after[0]) for statistics in after)


@pytest.mark.parametrize("weights_only", [False, True])
def test_best_model_checkpoint_without_a_path_is_refused_before_training(weights_only):
    import numpy as np

    from tf_lars.horovod import callbacks

    checkpoint = callbacks.BestModelCheckpoint(save_weights_only=weights_only)
    with pytest.raises(ValueError, match="needs a filepath"):
        _model().fit(np.zeros((1, 4)), np.zeros((1, 1)), verbose=0, callbacks=[checkpoint])
