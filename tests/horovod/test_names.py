"""Every public name of Horovod's Keras modules works here or refuses with a sentence."""

import subprocess
import sys
import time
import types

import numpy as np
import pytest

from tests import workers

pair = workers.Job(2)


def public_names(module):
    """What a module offers; not the modules that it happens to have imported."""
    names = [name for name in dir(module) if not name.startswith("_")]
    own = ("callbacks", "elastic")
    return [n for n in names if n in own or not isinstance(getattr(module, n), types.ModuleType)]


@pair.check
def test_every_public_name_of_horovods_keras_modules_is_here():
    import horovod.keras
    import horovod.tensorflow
    import horovod.tensorflow.keras

    import tf_lars.horovod as hvd

    helpers = {"check_extension", "check_num_rank_power_of_2", "gpu_available", "refs_to_vars"}
    helpers |= {"handle_average_backwards_compatibility", "split_list", "vars_to_refs"}
    helpers |= {"LocalGradientAggregationHelper"}
    for module in (horovod.tensorflow.keras, horovod.keras, horovod.tensorflow):
        for name in set(public_names(module)) - helpers:
            assert hasattr(hvd, name), f"{module.__name__}.{name}"
    for name in hvd.__all__:
        assert getattr(hvd, name) is not None


@pair.check
def test_callbacks_and_elastic_have_horovods_names():
    import horovod.keras.callbacks
    import horovod.keras.elastic
    import horovod.tensorflow.keras.callbacks
    import horovod.tensorflow.keras.elastic

    from tf_lars.horovod import callbacks, elastic

    upstream = horovod.tensorflow.keras
    for theirs, ours in (
        (upstream.callbacks, callbacks),
        (horovod.keras.callbacks, callbacks),
        (upstream.elastic, elastic),
        (horovod.keras.elastic, elastic),
    ):
        for name in set(public_names(theirs)) - {"is_version_greater_equal_than"}:
            assert hasattr(ours, name), f"{theirs.__name__}.{name}"


@pair.check
def test_the_world_is_described():
    import tf_lars.horovod as hvd

    assert hvd.is_initialized()
    assert hvd.size() == hvd.local_size() == 2
    assert hvd.rank() == hvd.local_rank()
    assert (hvd.cross_size(), hvd.cross_rank()) == (1, 0)
    assert hvd.is_homogeneous()
    assert hvd.gloo_built() and hvd.gloo_enabled()
    for absent in ("nccl", "ddl", "ccl", "cuda", "rocm", "mpi", "sycl"):
        assert not getattr(hvd, f"{absent}_built")()
    assert int(hvd.size_op()) == 2
    assert int(hvd.rank_op()) == hvd.rank()
    assert hvd.global_process_set.included()


@pair.check
def test_collectives_take_numbers_arrays_tensors_and_variables_of_every_type():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    rank = hvd.rank()
    assert float(hvd.allreduce(rank + 1.0)) == 1.5
    assert float(hvd.allreduce(rank + 1.0, op=hvd.Sum)) == 3.0
    assert float(hvd.allreduce(rank + 1.0, average=False)) == 3.0
    assert float(hvd.allreduce(rank + 1.0, False)) == 3.0
    assert float(hvd.allreduce(rank + 1.0, "named", prescale_factor=2.0)) == 3.0
    assert float(hvd.allreduce(rank + 1.0, op=hvd.Max)) == 2.0
    assert float(hvd.allreduce(rank + 1.0, op=hvd.Min)) == 1.0
    assert float(hvd.allreduce(rank + 1.0, op=hvd.Product)) == 2.0
    assert float(hvd.allreduce(1.0, compression=hvd.Compression.fp16)) == 1.0
    for dtype in ("float16", "float32", "float64", "bfloat16"):
        variable = keras.Variable([[1.0, rank]], dtype=dtype)
        assert np.array(keras.ops.cast(hvd.allreduce(variable), "float32")).tolist() == [[1.0, 0.5]]
        assert hvd.allreduce(variable).dtype.name == dtype
        gathered = hvd.allgather(variable)
        assert gathered.dtype.name == dtype
        assert keras.ops.cast(gathered, "float32").numpy().tolist() == [[1, 0], [1, 1]]
        received = keras.ops.cast(hvd.broadcast(variable, root_rank=1), "float32")
        assert received.numpy().tolist() == [[1.0, 1.0]]
    assert hvd.allgather(np.full((rank + 1, 1), rank)).shape == (3, 1)
    assert hvd.reducescatter(np.float32([[1], [3]]) * (rank + 1)).numpy().tolist() == [
        [1.5 if rank == 0 else 4.5]
    ]
    assert hvd.alltoall(np.int32([10 * rank, 10 * rank + 1])).numpy().tolist() == [rank, 10 + rank]
    received, splits = hvd.alltoall(tf.range(3), splits=[1, 2])
    assert splits.numpy().tolist() == [rank + 1] * 2
    assert received.shape == (2 * (rank + 1),)


@pair.check
def test_grouped_collectives_take_mixtures():
    import tensorflow as tf

    import tf_lars.horovod as hvd

    rank = hvd.rank()
    sparse = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([rank]), tf.constant([2, 2]))
    mixed = [np.float32(rank), np.float64(rank), sparse, tf.constant(2.0 * rank, tf.bfloat16)]
    single, double, gathered, half = hvd.grouped_allreduce(mixed, op=hvd.Sum)
    assert (float(single), float(double), float(tf.cast(half, tf.float32))) == (1.0, 1.0, 2.0)
    assert tf.convert_to_tensor(gathered).numpy().tolist() == [[1.0, 1.0], [1.0, 1.0]]
    first, second = hvd.grouped_allgather([tf.constant([rank]), tf.constant([rank, rank])])
    assert (first.numpy().tolist(), second.numpy().tolist()) == ([0, 1], [0, 0, 1, 1])
    parts = hvd.grouped_reducescatter([tf.ones([2, 1]), tf.ones([4, 1])], op=hvd.Sum)
    assert [part.numpy().ravel().tolist() for part in parts] == [[2.0], [2.0, 2.0]]
    assert hvd.grouped_allreduce([]) == []


@pair.check
def test_objects_of_different_types_travel():
    import tf_lars.horovod as hvd

    state = {"epoch": 3} if hvd.rank() == 0 else None
    assert hvd.broadcast_object(state, root_rank=0) == {"epoch": 3}
    assert hvd.broadcast_object_fn(root_rank=1)(hvd.rank()) == 1
    assert hvd.allgather_object([1, 2] if hvd.rank() else "a") == ["a", [1, 2]]


@pair.check
def test_a_barrier_waits_for_the_last_rank():
    import tf_lars.horovod as hvd

    hvd.barrier()
    began = time.monotonic()
    if hvd.rank() == 1:
        time.sleep(0.5)
    hvd.barrier()
    assert time.monotonic() - began > 0.4


@pair.check
def test_variables_are_broadcast():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    for variable in (keras.Variable([1.0 + hvd.rank()]), tf.Variable([1.0 + hvd.rank()])):
        hvd.broadcast_variables([variable], root_rank=1)
        assert float(variable[0]) == 2.0
    variable = keras.Variable([1.0 + hvd.rank()])
    hvd.broadcast_([variable], root_rank=1)
    assert float(variable[0]) == 2.0


@pair.check
def test_what_cannot_work_says_what_to_use():
    import tf_lars.horovod as hvd

    with pytest.raises(RuntimeError, match="broadcast_variables"):
        hvd.broadcast_global_variables(0)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hvd.nothing  # noqa: B018


@pair.check
def test_joining_ranks_let_the_others_finish():
    import tensorflow as tf

    import tf_lars.horovod as hvd

    if hvd.rank() == 0:
        hvd.allreduce(tf.constant([2.0]), op=hvd.Sum, name="only_rank_0")
    assert int(hvd.join()) in (0, 1)


def test_importing_the_package_needs_no_horovod_and_a_name_says_how_to_get_it():
    source = (
        "import sys; sys.modules['horovod'] = None; import tf_lars.horovod as hvd; "
        "import tf_lars.horovod.build; hvd.init()"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=workers.environment()
    )
    assert "python -m tf_lars.horovod.build" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: Horovod")


def test_another_backend_of_keras_is_refused_with_a_sentence():
    source = (
        "import keras, tf_lars.horovod as hvd; hvd.init(); "
        "hvd.DistributedOptimizer(keras.optimizers.SGD())"
    )
    env = workers.environment({"KERAS_BACKEND": "jax"})
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=env)
    assert "needs Keras on TensorFlow, and this is jax" in done.stderr.strip().splitlines()[-1]
