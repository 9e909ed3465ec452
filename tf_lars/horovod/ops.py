"""Horovod's collectives, mended for Keras 3.

Mended: every collective takes what Keras 3 hands out (`keras.Variable`, arrays, numbers) and
bfloat16; `grouped_allreduce` takes any mixture of types and of dense and sparse tensors;
`broadcast_object` and `allgather_object` take objects of different types on different ranks.
"""

import horovod.tensorflow as horovod
import tensorflow as tf
from horovod.tensorflow import Average, Compression, global_process_set

from tf_lars.horovod.variables import tf_variable


def _tensor(value):
    return value if isinstance(value, tf.IndexedSlices) else tf.convert_to_tensor(value)


def _wide(tensor):
    """The tensor in a type that Horovod can add up: bfloat16 becomes float32, exactly."""
    if isinstance(tensor, tf.IndexedSlices):
        return tf.IndexedSlices(_wide(tensor.values), tensor.indices, tensor.dense_shape)
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor


def _narrow(tensor, dtype):
    if isinstance(tensor, tf.IndexedSlices):
        return tf.IndexedSlices(_narrow(tensor.values, dtype), tensor.indices, tensor.dense_shape)
    return tf.cast(tensor, dtype) if tensor.dtype != dtype else tensor


def _moved(collective, value, *args, **kwargs):
    """Runs a collective that only moves data; bfloat16 travels as its bits."""
    tensor = _tensor(value)
    if tensor.dtype != tf.bfloat16:
        return collective(tensor, *args, **kwargs)
    result = collective(tf.bitcast(tensor, tf.uint16), *args, **kwargs)
    if isinstance(result, tuple):
        return tf.bitcast(result[0], tf.bfloat16), *result[1:]
    return tf.bitcast(result, tf.bfloat16)


@tf.autograph.experimental.do_not_convert
def allreduce(
    value,
    name=None,
    average=None,
    prescale_factor=1.0,
    postscale_factor=1.0,
    op=None,
    compression=Compression.none,
    device_dense="",
    device_sparse="",
    process_set=global_process_set,
    ignore_name_scope=False,
):
    """Combines a value over the ranks.

    Args:
        value: number, array, tensor, variable or `tf.IndexedSlices`, of one shape on every rank.
        name: name of the operation.
        average: deprecated by Horovod; True is `op=Average`, False `op=Sum`.
        prescale_factor: factor before the reduction.
        postscale_factor: factor after it.
        op: Average (default), Sum, Min, Max, Product, or Adasum with MPI.
        compression: `Compression.none` or `Compression.fp16`.
        device_dense: device of the operation.
        device_sparse: device of the operation for `tf.IndexedSlices`.
        process_set: the ranks that take part.
        ignore_name_scope: leave name scopes out of the operation's name.

    Returns:
        A tensor of the value's shape and type, the same on every rank.
    """
    if isinstance(name, bool):  # horovod.tensorflow.allreduce has `average` in the second place
        name, average = None, name
    tensor = _tensor(value)
    result = horovod.allreduce(
        _wide(tensor),
        average=average,
        device_dense=device_dense,
        device_sparse=device_sparse,
        compression=compression,
        op=op,
        prescale_factor=prescale_factor,
        postscale_factor=postscale_factor,
        name=name,
        process_set=process_set,
        ignore_name_scope=ignore_name_scope,
    )
    return _narrow(result, tensor.dtype)


@tf.autograph.experimental.do_not_convert
def grouped_allreduce(tensors, *args, name=None, **kwargs):
    """Combines a list of values over the ranks in as few operations as they have types.

    Args:
        tensors: list of values as for `allreduce`, in the same order on every rank.
        *args: further arguments of Horovod's `grouped_allreduce`.
        name: name of the operation.
        **kwargs: further arguments of Horovod's `grouped_allreduce`.

    Returns:
        The list of combined values.
    """
    tensors = [_tensor(tensor) for tensor in tensors]
    bundles = {}
    for i, tensor in enumerate(tensors):
        kind = (_wide(tensor).dtype, isinstance(tensor, tf.IndexedSlices))
        bundles.setdefault(kind, []).append(i)
    results = [None] * len(tensors)
    for k, bundle in enumerate(bundles.values()):
        bundle_name = name if name is None or len(bundles) == 1 else f"{name}.{k}"
        wide = [_wide(tensors[i]) for i in bundle]
        reduced = horovod.grouped_allreduce(wide, *args, name=bundle_name, **kwargs)
        for i, tensor in zip(bundle, reduced, strict=True):
            results[i] = _narrow(tensor, tensors[i].dtype)
    return results


@tf.autograph.experimental.do_not_convert
def reducescatter(value, name=None, op=Average, **kwargs):
    """Combines a value over the ranks and leaves each with its part of the first dimension.

    Args:
        value: array, tensor or variable, of one shape on every rank.
        name: name of the operation.
        op: Average (default) or Sum.
        **kwargs: further arguments of Horovod's `reducescatter`.
    """
    tensor = _tensor(value)
    result = horovod.reducescatter(_wide(tensor), op=op, name=name, **kwargs)
    return _narrow(result, tensor.dtype)


@tf.autograph.experimental.do_not_convert
def grouped_reducescatter(tensors, *args, **kwargs):
    """`reducescatter` of a list of values of one type; arguments as Horovod's."""
    tensors = [_tensor(tensor) for tensor in tensors]
    results = horovod.grouped_reducescatter([_wide(t) for t in tensors], *args, **kwargs)
    return [_narrow(r, t.dtype) for r, t in zip(results, tensors, strict=True)]


@tf.autograph.experimental.do_not_convert
def allgather(value, name=None, **kwargs):
    """Joins the ranks' values along the first dimension, which may differ between ranks.

    Args:
        value: array, tensor or variable of at least one dimension.
        name: name of the operation.
        **kwargs: further arguments of Horovod's `allgather` (process_set, ignore_name_scope).
    """
    return _moved(horovod.allgather, value, name=name, **kwargs)


@tf.autograph.experimental.do_not_convert
def grouped_allgather(tensors, name=None, **kwargs):
    """`allgather` of a list of values of one type; arguments as Horovod's."""
    return horovod.grouped_allgather([_tensor(t) for t in tensors], name=name, **kwargs)


@tf.autograph.experimental.do_not_convert
def broadcast(value, root_rank, name=None, **kwargs):
    """The root rank's value on every rank.

    Args:
        value: number, array, tensor or variable, of one shape on every rank.
        root_rank: rank whose value is taken.
        name: name of the operation.
        **kwargs: further arguments of Horovod's `broadcast` (process_set, ignore_name_scope).
    """
    return _moved(horovod.broadcast, value, root_rank, name=name, **kwargs)


@tf.autograph.experimental.do_not_convert
def broadcast_(variables, root_rank, name=None, process_set=global_process_set):
    """Gives variables the root rank's values in place; arguments as `broadcast`'s."""
    variables = [tf_variable(variable) for variable in variables]
    return horovod.broadcast_(variables, root_rank, name=name, process_set=process_set)


@tf.autograph.experimental.do_not_convert
def alltoall(tensor, splits=None, name=None, **kwargs):
    """Sends part i of a value's first dimension to rank i; arguments as Horovod's."""
    return _moved(horovod.alltoall, tensor, splits, name=name, **kwargs)


def sycl_built():
    """False: examples written after Horovod's last release ask for it."""
    return False


def barrier(process_set=global_process_set):
    """Waits until every rank of the set has come here."""
    if process_set.included():
        horovod.allreduce(tf.constant(0), name="tf_lars.barrier", process_set=process_set)


@tf.autograph.experimental.do_not_convert
def broadcast_object(obj, root_rank=0, session=None, name=None, process_set=global_process_set):
    """The root rank's object on every rank; the others may pass anything, None for instance."""
    del session
    name = name or "tf_lars.broadcast_object"  # Horovod's default is the type's name: it differs
    return horovod.broadcast_object(obj, root_rank, name=name, process_set=process_set)


@tf.autograph.experimental.do_not_convert
def broadcast_object_fn(root_rank=0, session=None, name=None, process_set=global_process_set):
    """A function of one object that is `broadcast_object` with the arguments given here."""
    del session
    return lambda obj: broadcast_object(obj, root_rank, name=name, process_set=process_set)


@tf.autograph.experimental.do_not_convert
def allgather_object(obj, session=None, name=None, process_set=global_process_set):
    """The ranks' objects as a list in the order of the ranks."""
    del session
    name = name or "tf_lars.allgather_object"
    return horovod.allgather_object(obj, name=name, process_set=process_set)


@tf.autograph.experimental.do_not_convert
def broadcast_global_variables(root_rank):
    """Refuses: TensorFlow 2 keeps no list of all variables.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "There is no list of global variables in TensorFlow 2: use "
        f"hvd.broadcast_variables(model.variables, root_rank={root_rank}), and the same for "
        "optimizer.variables, or hvd.callbacks.BroadcastGlobalVariablesCallback"
    )
