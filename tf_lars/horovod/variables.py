"""Broadcasts and averages of Keras or TensorFlow variables over the ranks.

Horovod pairs what the ranks send by name, and Keras's automatic names differ between ranks as soon
as one of them has built one layer more (rank 0 after loading a checkpoint, say). So variables are
paired by their position here, packed into a few buffers of bytes whatever their types are.
"""

import horovod.tensorflow as horovod
import tensorflow as tf

_BUFFER_BYTES = 64 * 2**20


def tf_variable(variable):
    """The `tf.Variable` behind a `keras.Variable`; a `tf.Variable` is returned as it is."""
    value = getattr(variable, "value", None)
    return value if isinstance(value, tf.Variable) else variable


def without_seeds(variables):
    """The variables other than the states of seed generators.

    Those must stay apart by rank: with a shared state every rank draws the same dropout masks.
    """
    return [v for v in variables if "seed_generator_state" not in v.name]


def _to_bytes(tensor):
    if tensor.dtype == tf.bool:
        tensor = tf.cast(tensor, tf.uint8)
    return tf.reshape(tf.bitcast(tensor, tf.uint8), [-1])


def _from_bytes(data, like):
    if like.dtype == tf.bool:
        return tf.reshape(tf.cast(data, tf.bool), like.shape)
    shape = like.shape if like.dtype.size == 1 else [*like.shape, like.dtype.size]
    return tf.bitcast(tf.reshape(data, shape), like.dtype)


def _buffers(variables):
    """Splits the list into runs of at most `_BUFFER_BYTES`, a larger variable alone."""
    run, size = [], 0
    for variable in variables:
        bytes_ = variable.shape.num_elements() * variable.dtype.size
        if run and size + bytes_ > _BUFFER_BYTES:
            yield run
            run, size = [], 0
        run.append(variable)
        size += bytes_
    if run:
        yield run


@tf.autograph.experimental.do_not_convert
def broadcast_variables(
    variables, root_rank, process_set=horovod.global_process_set, inplace=False
):
    """Gives every rank the root's values of the variables, bit for bit, whatever their types.

    Args:
        variables: list of `keras.Variable` or `tf.Variable`, in the same order and with the same
            shapes and types on every rank. States of seed generators are left alone.
        root_rank: the rank whose values are taken, a global rank.
        process_set: the ranks that take part.
        inplace: Horovod's argument; here it changes nothing, since buffers are bounded anyway.
    """
    del inplace
    if horovod.size() == 1 or not process_set.included():
        return
    variables = [tf_variable(v) for v in without_seeds(variables)]
    for index, run in enumerate(_buffers(variables)):
        values = [tf.convert_to_tensor(variable) for variable in run]
        parts = [_to_bytes(value) for value in values]
        packed = horovod.broadcast(
            tf.concat(parts, 0),
            root_rank,
            name=f"tf_lars.broadcast_variables.{process_set.process_set_id}.{index}",
            process_set=process_set,
        )
        sizes = [part.shape.num_elements() for part in parts]
        for variable, value, data in zip(run, values, tf.split(packed, sizes), strict=True):
            variable.assign(_from_bytes(data, value))


@tf.autograph.experimental.do_not_convert
def average_variables(variables, process_set=horovod.global_process_set):
    """Gives every rank the mean of the variables over the ranks, computed in float32.

    Args:
        variables: list of floating `keras.Variable` or `tf.Variable`, the same on every rank.
        process_set: the ranks that take part.
    """
    if horovod.size() == 1 or not process_set.included():
        return
    for index, run in enumerate(_buffers([tf_variable(v) for v in variables])):
        flat = [tf.reshape(tf.cast(variable, tf.float32), [-1]) for variable in run]
        packed = horovod.allreduce(
            tf.concat(flat, 0),
            op=horovod.Average,
            name=f"tf_lars.average_variables.{process_set.process_set_id}.{index}",
            process_set=process_set,
        )
        sizes = [variable.shape.num_elements() for variable in run]
        for variable, mean in zip(run, tf.split(packed, sizes), strict=True):
            variable.assign(tf.cast(tf.reshape(mean, variable.shape), variable.dtype))
