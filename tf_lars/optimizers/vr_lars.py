"""VR-LARS: LARS on gradients whose noisy elements are damped."""

import keras
from keras import ops

from tf_lars.optimizers import trust_ratio
from tf_lars.optimizers.compiled import dense_gradient
from tf_lars.optimizers.lars import LARS


@keras.saving.register_keras_serializable(package="tf_lars")
class VRLARS(LARS):
    """LARS fed with r⊙ḡ, where r is small for elements that are mostly noise.

    With ḡ the mean gradient and σ² = E[g²] − ḡ² the variance of its elements over the parts of the
    batch (micro-batches and workers), layer by layer,

        r = ḡ²/σ²,   r ← r / mean(r),   r ← clip(r, min_ratio, 1),   then LARS with r⊙ḡ.

    `tf_lars.LargeBatchModel` collects E[g²], element by element, which doubles what is accumulated
    and reduced. An element whose variance is zero keeps its gradient whole.

    Args:
        learning_rate: γ, as for `LARS`.
        min_ratio: the smallest r, in (0, 1].
        **arguments: those of `LARS`.

    Raises:
        ValueError: an argument is out of its range; `apply` without `mean_squared_gradients`.

    Example:

    >>> from tf_lars.optimizers.vr_lars import VRLARS
    >>> from tf_lars.training.large_batch_model import LargeBatchModel
    >>> model = LargeBatchModel(inputs, outputs, micro_batch_size=128)
    >>> model.compile(VRLARS(learning_rate=5.0), "sparse_categorical_crossentropy")

    Source: Jiang et al. 2023, "Accelerating Large Batch Training via Gradient Signal to Noise
    Ratio (GSNR)", arXiv 2309.13681: VR-LARS of its VRGD, with the ratio normalised by layer and
    clipped to [0.1, 1].
    """

    def __init__(self, learning_rate=0.1, min_ratio=0.1, **arguments):
        super().__init__(learning_rate, **arguments)
        if not 0 < min_ratio <= 1:
            raise ValueError(f"min_ratio={min_ratio!r} must be in (0, 1].")
        self.min_ratio = min_ratio

    def apply(self, grads, trainable_variables=None, mean_squared_gradients=None):
        """Update the variables once.

        Args:
            grads: one mean gradient ḡ for each variable, or None.
            trainable_variables: the variables; may be left out once the optimizer is built.
            mean_squared_gradients: E[g²] over the parts of the batch for each variable, shaped like
                it and at the square of the scale of `grads`.

        Raises:
            ValueError: `mean_squared_gradients` is missing or not one for each gradient.
        """
        if mean_squared_gradients is None or len(mean_squared_gradients) != len(grads):
            raise ValueError(
                "VRLARS.apply needs mean_squared_gradients, one for each gradient: train with "
                "tf_lars.LargeBatchModel, which collects them."
            )
        damped = [
            None if gradient is None else self._damped(dense_gradient(gradient), square)
            for gradient, square in zip(grads, mean_squared_gradients, strict=True)
        ]
        super().apply(damped, trainable_variables)

    def _damped(self, gradient, mean_square):
        signal = ops.square(gradient)
        variance = trust_ratio.bounded(ops.cast(mean_square, gradient.dtype) - signal, 0.0)
        certain = variance <= 1e-12 * signal
        ratio = signal / ops.where(certain, ops.ones_like(variance), variance)
        known = ops.cast(ops.logical_not(certain), gradient.dtype)
        mean = ops.sum(ratio * known) / trust_ratio.bounded(ops.sum(known), 1.0)
        ratio = ratio / ops.where(mean > 0, mean, ops.ones_like(mean))
        return gradient * ops.where(certain, 1.0, ops.clip(ratio, self.min_ratio, 1.0))

    def get_config(self):
        return {**super().get_config(), "min_ratio": self.min_ratio}
