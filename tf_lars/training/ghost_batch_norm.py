"""Ghost batch normalization: the statistics of small batches inside a large one."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tf_lars")
class GhostBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over virtual batches of at most `virtual_batch_size` rows each.

    Large batches lose the regularising noise of batch statistics; ghost batch normalization keeps
    that of the small batch (Hoffer, Hubara, Soudry 2017, arXiv 1705.08741, algorithm 1). A batch of
    B rows is split in its order into G = ⌈B / n⌉ virtual batches of ⌈B / G⌉ rows (the last may
    have fewer), each normalized by its own mean and variance. The moving statistics are those
    of G training steps, one for each virtual batch in turn, with momentum μ:

        moving ← μᴳ·moving + Σ_g μ^(G−1−g)·(1 − μ)·statistic_g

    No communication between ranks: each has its own rows. Works on every Keras backend, and
    compiled by XLA.

    Args:
        virtual_batch_size: n, rows of a virtual batch, 1 or more.
        **kwargs: arguments of `keras.layers.BatchNormalization` (axis, momentum, epsilon, …), but
            neither `synchronized` nor `renorm`.

    Input and output shape: (B, …, channels), with the channels on `axis`, which is not 0.

    Raises:
        ValueError: for a `virtual_batch_size` below 1, or `synchronized`, `renorm` or axis 0.

    Example:
        >>> layer = GhostBatchNormalization(virtual_batch_size=32, momentum=0.9)
        >>> layer(keras.random.normal((128, 8)), training=True).shape
        TensorShape([128, 8])
    """

    def __init__(self, virtual_batch_size=32, **kwargs):
        whole = isinstance(virtual_batch_size, int) and not isinstance(virtual_batch_size, bool)
        if not whole or virtual_batch_size < 1:
            raise ValueError(f"virtual_batch_size is 1 or more, got {virtual_batch_size!r}")
        for name in ("synchronized", "renorm"):
            if kwargs.get(name):
                raise ValueError(f"GhostBatchNormalization has no {name}: got {kwargs[name]!r}")
        super().__init__(**kwargs)
        self.virtual_batch_size = virtual_batch_size

    def build(self, input_shape):
        if self.axis % len(input_shape) == 0:
            raise ValueError(f"axis {self.axis} is the batch: it cannot hold the channels")
        super().build(input_shape)

    def get_config(self):
        return {**super().get_config(), "virtual_batch_size": self.virtual_batch_size}

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        if mask is not None and len(mask.shape) != len(x.shape) - 1:
            raise ValueError(
                f"mask has one dimension less than the inputs; got {mask.shape} and {x.shape}"
            )
        rows = ops.shape(x)[0]
        groups = (rows + self.virtual_batch_size - 1) // self.virtual_batch_size
        size = (rows + groups - 1) // groups
        weights = ops.ones((rows,) + (1,) * (len(x.shape) - 1), x.dtype)
        if mask is not None:
            weights = weights * ops.cast(ops.expand_dims(mask, -1), x.dtype)
        grouped = self._grouped(x, groups, size, rows)
        counted = self._grouped(weights, groups, size, rows)

        mean, variance = self._group_moments(grouped, counted)
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * self._along_channels(self.gamma, grouped)
        outputs = (grouped - mean) * scale
        if self.center:
            outputs = outputs + self._along_channels(self.beta, grouped)
        self._update(self.moving_mean, mean, groups)
        self._update(self.moving_variance, variance, groups)
        outputs = ops.reshape(outputs, (groups * size, *ops.shape(x)[1:]))[:rows]
        return ops.cast(ops.reshape(outputs, ops.shape(x)), self.compute_dtype)

    @staticmethod
    def _grouped(x, groups, size, rows):
        """[rows, …] as [groups, size, …], filled up with zeros."""
        missing, shape = groups * size - rows, ops.shape(x)[1:]
        if not (isinstance(missing, int) and missing == 0):
            x = ops.concatenate([x, ops.zeros((missing, *shape), x.dtype)], 0)
        return ops.reshape(x, (groups, size, *shape))

    def _channel_axis(self, grouped):
        return self.axis % (len(grouped.shape) - 1) + 1

    def _along_channels(self, vector, grouped):
        shape = [1] * len(grouped.shape)
        shape[self._channel_axis(grouped)] = -1
        return ops.reshape(ops.cast(vector, grouped.dtype), shape)

    def _group_moments(self, grouped, weights):
        axes = [a for a in range(1, len(grouped.shape)) if a != self._channel_axis(grouped)]
        weights = ops.broadcast_to(weights, ops.shape(grouped))
        count = ops.sum(weights, axes, keepdims=True)
        mean = ops.divide_no_nan(ops.sum(grouped * weights, axes, keepdims=True), count)
        deviation = ops.square(grouped - mean) * weights
        return mean, ops.divide_no_nan(ops.sum(deviation, axes, keepdims=True), count)

    def _update(self, moving, statistic, groups):
        """The moving average after one step for each group."""
        statistic = ops.reshape(statistic, (groups, -1))
        later = ops.cast(ops.arange(groups - 1, -1, -1), statistic.dtype)
        momentum = ops.cast(self.momentum, statistic.dtype)
        share = (1 - momentum) * ops.power(momentum, later)
        kept = ops.power(momentum, ops.cast(groups, statistic.dtype))
        change = ops.sum(ops.expand_dims(share, -1) * statistic, 0)
        moving.assign(ops.cast(kept * ops.cast(moving, statistic.dtype) + change, moving.dtype))
