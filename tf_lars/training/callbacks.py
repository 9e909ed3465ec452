"""Keras callbacks for training with large batches."""

import keras
import numpy as np


def batch_norm_layers(model):
    """The model's BatchNormalization layers that train, nested ones too, in a fixed order."""
    layers = model._flatten_layers()
    return [x for x in layers if isinstance(x, keras.layers.BatchNormalization) and x.trainable]


class PreciseBatchNorm(keras.callbacks.Callback):
    """Re-estimates BatchNorm's statistics before each evaluation and at the end of `fit`.

    The moving averages of BatchNorm lag behind the weights when updates are few, as they are with
    large batches. This puts the statistics of the current weights over given training data in
    their place: with n_i rows, mean m_i and variance v_i of batch i as it is normalised in
    training, and N = Σ n_i,

        mean = Σ n_i m_i / N,        variance = Σ n_i (v_i + m_i²) / N − mean².

    Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3. Nothing
    else of the model changes: seed generators and other state are put back.

    Args:
        batches: the data, an iterable that can be gone through again and again (a
            `tf.data.Dataset`, a list), of inputs or of tuples that begin with the inputs.
        reduce_sum: with several workers, a function that gives the sum over all workers of a
            float64 vector; every worker then brings its own `batches`, as many as it likes.

    Raises:
        ValueError: `batches` is empty on all workers (when the statistics are estimated).

    Example:
        >>> precise = PreciseBatchNorm(train_dataset.take(20))
        >>> model.fit(train_dataset, validation_data=test_dataset, callbacks=[precise])
    """

    def __init__(self, batches, reduce_sum=None):
        super().__init__()
        self.batches = batches
        self.reduce_sum = reduce_sum or (lambda vector: vector)
        self._forward = None
        self._estimated_at = None

    def set_model(self, model):
        super().set_model(model)
        self._layers = batch_norm_layers(model)
        self._forward = _compiled(lambda inputs: _batch_statistics(model, self._layers, inputs))

    def on_test_begin(self, logs=None):
        self.update()

    def on_train_end(self, logs=None):
        self.update()

    def update(self):
        """Estimates the statistics, unless the weights are those of the last estimate."""
        done = int(self.model.optimizer.iterations) if self.model.optimizer else None
        if not self._layers or (done is not None and done == self._estimated_at):
            return
        self._estimated_at = done
        kept = self.model.non_trainable_variables
        values = [keras.ops.convert_to_numpy(variable) for variable in kept]
        try:
            means, variances = self._estimate()
        finally:
            for variable, value in zip(kept, values, strict=True):
                variable.assign(value)
        ends = np.cumsum([layer.moving_mean.shape[0] for layer in self._layers])[:-1]
        for layer, mean, variance in zip(
            self._layers, np.split(means, ends), np.split(variances, ends), strict=True
        ):
            layer.moving_mean.assign(mean.astype(np.float32))
            layer.moving_variance.assign(variance.astype(np.float32))

    def _estimate(self):
        """Means and variances over all batches of all workers, the layers one after the other."""
        width = sum(layer.moving_mean.shape[0] for layer in self._layers)
        total = np.zeros(1 + 2 * width)
        for batch in self.batches:
            inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
            mean, variance = (
                keras.ops.convert_to_numpy(value).astype(np.float64)
                for value in self._forward(inputs)
            )
            rows = inputs.shape[0]
            total += rows * np.concatenate([[1.0], mean, variance + mean**2])
        total = np.asarray(self.reduce_sum(total))
        if not total[0]:
            raise ValueError("batches must hold at least one batch; there was none on any worker")
        mean, square = np.split(total[1:] / total[0], 2)
        return mean, np.maximum(square - mean**2, 0.0)


def _batch_statistics(model, layers, inputs):
    """Means and variances of one batch in training mode, the layers one after the other."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0  # the moving statistics become those of the batch
        # 0 · inf is no zero: what diverged before must not enter
        layer.moving_mean.assign(keras.ops.zeros_like(layer.moving_mean))
        layer.moving_variance.assign(keras.ops.ones_like(layer.moving_variance))
    try:
        model(inputs, training=True)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    return (
        keras.ops.concatenate([keras.ops.convert_to_tensor(x.moving_mean) for x in layers]),
        keras.ops.concatenate([keras.ops.convert_to_tensor(x.moving_variance) for x in layers]),
    )


def _compiled(function):
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, reduce_retracing=True)
