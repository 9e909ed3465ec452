"""Batch normalization with the statistics of all ranks."""

import horovod.tensorflow as horovod
import keras
import tensorflow as tf
from horovod.common.process_sets import _temp_process_set_object
from tensorflow.python.ops import control_flow_util

from tf_lars.horovod.names import unique_name
from tf_lars.horovod.reduction import _elastic
from tf_lars.training.ghost_batch_norm import GhostBatchNormalization

__all__ = ["GhostBatchNormalization", "SyncBatchNormalization"]


@keras.saving.register_keras_serializable(package="tf_lars")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization whose mean and variance are taken over the rows of all ranks.

    Training on N ranks with `hvd.DistributedOptimizer` is then the same arithmetic as training
    one process on the whole batch, forward and backward, also when ranks hold different numbers
    of rows or masked positions. With n_r positions, mean m_r and squared deviations M_r of rank r:

        mean = Σ n_r m_r / Σ n_r,   variance = Σ (M_r + n_r m_r²) / Σ n_r − mean²

    summed in float64 by one all-reduce of 2·channels + 1 numbers in the forward pass and one of
    2·channels in the backward pass, whatever the inputs' type. One rank alone is Keras's
    `BatchNormalization`. The moving statistics agree on all ranks.

    Args:
        fused: only False, Horovod's argument.
        process_set: the ranks that share statistics, an `hvd.ProcessSet` or a list of ranks of one
            that has been added; None for all.
        **kwargs: arguments of `keras.layers.BatchNormalization` (axis, momentum, epsilon, …), but
            not `synchronized`.

    Raises:
        ValueError: for `fused=True` or `synchronized=True`; in training, if Horovod has not been
            initialised or the process set not been added.
        RuntimeError: in a function compiled with `jit_compile=True`: Horovod does not run there.

    Example:
        >>> hvd.init()
        >>> layers = [keras.layers.Conv2D(8, 3), hvd.SyncBatchNormalization(momentum=0.9)]
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    """

    def __init__(self, fused=False, process_set=None, **kwargs):
        if fused is not False:
            raise ValueError(f"SyncBatchNormalization has no fused kernel: fused={fused!r}")
        if kwargs.pop("synchronized", False):
            raise ValueError(
                "synchronized=True is for tf.distribute; SyncBatchNormalization already shares its "
                "statistics over Horovod's ranks"
            )
        super().__init__(**kwargs)
        self.process_set = process_set
        self.supports_jit = False  # jit_compile="auto" then leaves the model to TensorFlow

    def get_config(self):
        config = super().get_config()
        ranks = getattr(self.process_set, "ranks", self.process_set)
        return {**config, "process_set": list(ranks) if ranks else None}

    def _moments(self, inputs, mask):
        if not horovod.is_initialized():
            raise ValueError("SyncBatchNormalization needs hvd.init() before it is trained")
        group = self._group()
        alone = group.size() == 1 and not _elastic()
        if alone or (group.ranks and not group.included()):
            return super()._moments(inputs, mask)
        if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
            raise RuntimeError(
                "SyncBatchNormalization cannot run inside a function compiled with jit_compile="
                "True: compile the model with jit_compile=False"
            )
        if mask is None:
            weights = None
        else:
            weights = tf.cast(tf.expand_dims(mask, -1), inputs.dtype)
            weights = tf.broadcast_to(weights, tf.shape(inputs))
        name = unique_name(
            f"tf_lars.sync_batch_norm.{group.process_set_id}.{inputs.shape[self.axis]}"
        )
        return synchronized_moments(inputs, weights, self._reduction_axes, name, group)

    def _group(self):
        if not self.process_set:
            return horovod.global_process_set
        if isinstance(self.process_set, horovod.ProcessSet):
            if self.process_set.process_set_id is None:
                raise ValueError(f"{self.process_set} was not added: call hvd.add_process_set")
            return self.process_set
        ranks = sorted(self.process_set)
        known = horovod.mpi_ops._basics._get_process_set_ids_and_ranks()
        for number, members in known.items():
            if list(members) == ranks:
                group = _temp_process_set_object(number)
                group.ranks = ranks
                return group
        raise ValueError(
            f"no process set of the ranks {ranks} was added: call hvd.add_process_set({ranks})"
        )


def synchronized_moments(x, weights, axes, name, process_set):
    """Mean and variance of `x` along `axes` over all ranks, and their gradient.

    Args:
        x: floating tensor.
        weights: None, or 0 and 1 in the shape of `x`: the positions that count.
        axes: list of axes; the one that is left is the channels.
        name: name of the forward all-reduce; the backward one's is made from it.
        process_set: the ranks that take part.

    Returns:
        Two vectors [channels] in the type of `x`.
    """

    def summed(parts, suffix):
        sizes = [part.shape[0] for part in parts]
        total = horovod.allreduce(
            tf.concat([tf.cast(part, tf.float64) for part in parts], 0),
            op=horovod.Sum,
            name=f"{name}.{suffix}",
            process_set=process_set,
            ignore_name_scope=True,
        )
        return tf.split(total, sizes)

    def along_channels(vector):
        shape = [1] * len(x.shape)
        (channel_axis,) = set(range(len(x.shape))) - set(axes)
        shape[channel_axis] = -1
        return tf.reshape(tf.cast(vector, x.dtype), shape)

    @tf.custom_gradient
    def moments(x):
        def counted(values):
            return values if weights is None else tf.where(weights > 0, values, 0)

        def total(values):
            return tf.cast(tf.reduce_sum(values, axes), tf.float64)

        own_count = total(tf.ones_like(x) if weights is None else weights)
        # A mean in the type of `x` is rounded: sums of the deviations from it, both accurate in
        # that type, give the sums of x and x² in float64.
        center = tf.cast(tf.math.divide_no_nan(total(counted(x)), own_count), x.dtype)
        deviation = counted(x - along_channels(center))
        center, rest = tf.cast(center, tf.float64), total(deviation)
        own_first = own_count * center + rest
        own_second = total(tf.square(deviation)) + 2 * center * rest + own_count * center**2
        sums = [own_count[:1], own_first, own_second]
        count, first, second = summed(sums, "forward")
        mean = tf.math.divide_no_nan(first, count)
        variance = tf.maximum(tf.math.divide_no_nan(second, count) - mean**2, 0)

        def gradient(mean_gradient, variance_gradient):
            for_mean, for_variance = summed([mean_gradient, variance_gradient], "backward")
            for_mean = along_channels(tf.math.divide_no_nan(for_mean, count))
            for_variance = along_channels(tf.math.divide_no_nan(2 * for_variance, count))
            result = for_mean + for_variance * (x - along_channels(mean))
            return result if weights is None else tf.where(weights > 0, result, 0)

        return (tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)), gradient

    return moments(x)
