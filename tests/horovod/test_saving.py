"""Models saved while training with Horovod load without it, and go on training with it."""

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from tests import workers
from tests.horovod import models

pair = workers.Job(2)


def trained(path, make, wrap=None):
    """Trains and saves a model on rank 0's path; all ranks get the path and the weights."""
    import tf_lars.horovod as hvd

    x, y = models.data()
    model = models.mlp()
    optimizer = (wrap or hvd.DistributedOptimizer)(make())
    models.train_ranks(model, optimizer, x, y)
    if hvd.rank() == 0:
        path = os.path.join(tempfile.mkdtemp(), path)
        model.save(path)
    return model, hvd.broadcast_object(path, 0)


@pair.check
def test_a_loaded_model_is_distributed_again_with_its_state():
    import keras

    import tf_lars.horovod as hvd

    for name in ("model.keras", "model.h5"):  # Keras itself loads no optimizer's state from HDF5
        model, path = trained(name, lambda: keras.optimizers.Adam(0.01))
        plain = keras.models.load_model(path)
        assert type(plain.optimizer) is keras.optimizers.Adam
        loaded = hvd.load_model(path)
        assert isinstance(loaded.optimizer, keras.optimizers.Adam)
        assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 4
        for old, new in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
            np.testing.assert_array_equal(old, new)
        x, y = (models.shard(a, hvd.rank(), hvd.size()) for a in models.data())
        for each in (model, loaded):
            each.fit(x, y, batch_size=12, shuffle=False, verbose=0)
        assert models.spread(models.flat(loaded.variables)) == 0
        np.testing.assert_array_equal(models.flat(loaded.variables), models.flat(model.variables))


@pair.check
def test_custom_optimizers_and_objects_are_found():
    import keras

    import tf_lars.horovod as hvd

    class Halving(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient / 2, variable, learning_rate)

    def factory(**config):
        return hvd.DistributedOptimizer(Halving(**config), op=hvd.Sum)

    _, path = trained(
        "custom.keras", lambda: Halving(keras.optimizers.schedules.CosineDecay(1.0, 9))
    )
    by_class = hvd.load_model(path, custom_optimizers=[Halving])
    by_name = hvd.load_model(path, custom_objects={"Halving": Halving})
    by_function = hvd.load_model(path, custom_objects={"Halving": factory})
    for model, op in ((by_class, hvd.Average), (by_name, hvd.Average), (by_function, hvd.Sum)):
        assert isinstance(model.optimizer, Halving)
        assert model.optimizer.reduction.op == op
        assert int(model.optimizer.iterations) == 4


@pair.check
def test_our_optimizers_loss_scaling_and_compression_survive():
    import keras

    import tf_lars
    import tf_lars.horovod as hvd

    _, path = trained("lars.keras", lambda: tf_lars.LARS(learning_rate=0.1))
    model = hvd.load_model(path, compression=hvd.Compression.fp16)
    assert isinstance(model.optimizer, tf_lars.LARS)
    assert model.optimizer.reduction.compression is hvd.Compression.fp16

    scaled = keras.optimizers.LossScaleOptimizer
    _, path = trained("scaled.keras", lambda: scaled(keras.optimizers.Adam(0.01)))
    model = hvd.load_model(path)
    assert isinstance(model.optimizer, scaled)
    assert isinstance(model.optimizer.inner_optimizer, keras.optimizers.Adam)
    x, y = (models.shard(a, hvd.rank(), hvd.size()) for a in models.data())
    model.fit(x, y, batch_size=12, verbose=0)
    assert models.spread(models.flat(model.variables)) == 0


@pair.check
def test_rank_0_alone_may_load_while_the_others_build():
    import keras

    import tf_lars.horovod as hvd

    _, path = trained("resume.keras", lambda: keras.optimizers.SGD(0.1, momentum=0.9))
    if hvd.rank() == 0:
        model = hvd.load_model(path)
    else:
        model = models.mlp(seed=7)
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.3, momentum=0.9)), "mse")
    x, y = (models.shard(a, hvd.rank(), hvd.size()) for a in models.data())
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(x, y, batch_size=12, verbose=0, callbacks=[start])
    assert hvd.check_in_sync(model)


@pair.check
def test_what_cannot_be_loaded_is_refused_with_a_sentence():
    import keras

    import tf_lars.horovod as hvd

    with pytest.raises(ValueError, match="legacy_opts"):
        hvd.load_model("model.keras", legacy_opts=True)
    with pytest.raises(ValueError, match="nowhere"):
        hvd.load_model("nowhere.keras")
    path = os.path.join(tempfile.mkdtemp(), "bare.keras")
    models.mlp().save(path)
    assert getattr(hvd.load_model(path), "optimizer", None) is None
    assert keras.models.load_model(path) is not None


def test_a_saved_model_loads_where_there_is_no_horovod(tmp_path):
    source = f"""
        import keras
        import tf_lars.horovod as hvd
        from tests.horovod import models
        hvd.init()
        model = models.mlp()
        optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01))
        models.train_ranks(model, optimizer, *models.data())
        if hvd.rank() == 0:
            model.save({str(tmp_path / "model.keras")!r})
    """
    workers.run_script(source)
    check = (
        "import sys; sys.modules['horovod'] = None; import keras; "
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r}); "
        "print(type(model.optimizer).__name__, int(model.optimizer.iterations))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, env=workers.environment()
    )
    assert done.stdout.split() == ["Adam", "4"], done.stderr
