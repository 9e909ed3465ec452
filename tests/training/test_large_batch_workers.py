"""The large-batch step on several workers: the same numbers as one worker with the whole batch."""

import keras
import numpy as np
import pytest

from tests import workers
from tests.training import oracle
from tests.training.models import assert_same_weights, data, large, plain

pytest.importorskip("horovod", reason="needs Horovod: python -m tf_lars.horovod.build")
job = workers.Job(2)


def fit(model, x, y, batch, epochs, **kwargs):
    model.fit(x, y, batch_size=batch, epochs=epochs, shuffle=False, verbose=0, **kwargs)
    return model


def own_rows(x, y, batch, first):
    """This rank's rows of each batch: those before `first` for rank 0, the others for rank 1."""
    import tf_lars.horovod as hvd

    own = slice(0, first) if hvd.rank() == 0 else slice(first, batch)
    return tuple(np.concatenate([b[own] for b in np.split(a, len(a) // batch)]) for a in (x, y))


def assert_two_workers_equal_one(first, batch, make, norm=None, size=32, **compiled):
    import tf_lars.horovod as hvd

    x, y = data(batch * 4)
    whole = fit(plain(make(), norm, **compiled), x, y, batch, 5)
    parts = large(size, hvd.DistributedOptimizer(make()), norm, **compiled)
    mine = own_rows(x, y, batch, first)
    fit(parts, *mine, len(mine[0]) // 4, 5)
    trained = whole.trainable_variables, parts.trainable_variables
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=0, atol=1e-5, err_msg=a.path)
    assert int(parts.optimizer.iterations) == 20


@job.check
def test_two_workers_with_four_micro_batches_equal_one_large_batch():
    from tf_lars.optimizers import LARS

    assert_two_workers_equal_one(128, 256, lambda: keras.optimizers.SGD(0.1, momentum=0.9))
    assert_two_workers_equal_one(128, 256, lambda: LARS(0.5, 0.9))


@job.check
def test_so_do_they_with_ghost_batch_norm_of_the_same_size():
    from tf_lars.training.ghost_batch_norm import GhostBatchNormalization

    assert_two_workers_equal_one(
        128,
        256,
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        norm=lambda: GhostBatchNormalization(32),
    )


@job.check
def test_workers_with_different_numbers_of_rows_give_the_mean_over_all_rows():
    assert_two_workers_equal_one(40, 100, lambda: keras.optimizers.SGD(0.1, clipnorm=0.5))


@job.check
def test_compression_sees_gradients_of_their_usual_size():
    import tf_lars.horovod as hvd

    x, y = data(200)
    whole = fit(plain(), x, y, 200, 3)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer = hvd.DistributedOptimizer(optimizer, compression=hvd.Compression.fp16)
    parts = large(25, optimizer)
    fit(parts, *own_rows(x, y, 200, 150), 150 if hvd.rank() == 0 else 50, 3)
    assert_same_weights(whole, parts, tolerance=2e-3)


@job.check
def test_an_overflow_on_one_worker_alone_is_skipped_by_all():
    import tf_lars.horovod as hvd

    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = large(16, hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    x, y = data(64)
    fit(model, x, y, 32, 2)
    before = [np.array(v) for v in model.trainable_variables]
    if hvd.rank() == 1:
        x[3] = 1e30
    scale = float(model.optimizer.dynamic_scale)
    fit(model, x, y, 64, 1)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), old)
    assert float(model.optimizer.dynamic_scale) == scale / 2


@job.check
def test_jit_compile_compiles_the_micro_batch_and_reduces_outside():
    import tf_lars.horovod as hvd

    x, y = data(64)
    whole = fit(plain(), x, y, 64, 3)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))
    parts = large(16, optimizer, jit_compile=True)
    fit(parts, *own_rows(x, y, 64, 32), 32, 3)
    assert parts._large_batch.jit_compile
    assert_same_weights(whole, parts)


@job.check
def test_statistics_are_over_micro_batches_and_workers():
    import tf_lars.horovod as hvd

    x, y = data(96)
    model = large(16, hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)))
    recorder = oracle.Recorder(len(model.trainable_variables))
    fit(model, *own_rows(x, y, 96, 64), 64 if hvd.rank() == 0 else 32, 1, callbacks=[recorder])
    whole = oracle.norms(oracle.gradient(model, x, y))
    parts = oracle.part_norms(model, x, y, 16)
    own = [
        oracle.norms(oracle.gradient(model, *own)) for own in ((x[:64], y[:64]), (x[64:], y[64:]))
    ]
    close = lambda name, value: np.testing.assert_allclose(recorder[name], value, rtol=1e-4)  # noqa: E731
    close("squared_norm", whole**2)
    close("mean_norm", parts.mean(0))
    close("mean_squared_norm", (parts**2).mean(0))
    close("mean_worker_norm", (2 * own[0] + own[1]) / 3)
    assert (recorder["batch"], recorder["parts"], recorder["workers"]) == (96, 6, 2)


@job.check
def test_clars_takes_its_norms_from_workers_and_from_probes_on_all_of_them():
    import tf_lars.horovod as hvd
    from tf_lars.optimizers import CLARS
    from tf_lars.training.mean_norms import PerExampleNorms

    x, y = data(64)
    own = own_rows(x, y, 64, 32)
    halves = np.concatenate([np.arange(4), 32 + np.arange(4)])
    for source, rows, size in (("worker", slice(None), 32), (PerExampleNorms(4, 3), halves, 1)):
        optimizer = CLARS(0.1, max_trust_ratio=None)
        model = large(None, hvd.DistributedOptimizer(optimizer), mean_norms=source)
        first = model.trainable_variables[0]
        norm = np.linalg.norm(np.array(first))
        parts = oracle.part_norms(model, x[rows], y[rows], size)
        fit(model, *own, 32, 1)
        expected = 0.01 * norm / parts.mean(0)[0]
        np.testing.assert_allclose(float(optimizer.trust_ratios[first.path]), expected, rtol=1e-4)
