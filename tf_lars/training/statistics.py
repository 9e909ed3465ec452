"""The statistics of one update that several methods share, layer by layer.

From a batch of B rows made of N micro-batches (over all workers) of b = B/N rows on average, with
gradients g_n whose mean, weighted by their rows, is G: ‖G‖² after the reduction over workers, and
mean‖g_n‖ and mean‖g_n‖² before it. Three vectors of a number a layer hold all that CLARS, the
gradient noise scale and AdaScale need. They are collected once, and only if somebody asks.
"""

import dataclasses

import tensorflow as tf


def norms(gradients):
    """‖g‖ of each gradient as one float32 vector; 0 for None."""
    return tf.sqrt(squared_norms(gradients))


def squared_norms(gradients):
    """‖g‖² of each gradient as one float32 vector; 0 for None."""
    # l2_loss is a threaded kernel, and squares in the same pass in which it sums.
    return tf.stack(
        [
            tf.constant(0.0) if g is None else 2.0 * tf.cast(tf.nn.l2_loss(g), tf.float32)
            for g in gradients
        ]
    )


@dataclasses.dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one update; K trainable variables in the model's order.

    Attributes:
        squared_norm: ‖G‖², float32 [K].
        mean_norm: mean‖g_n‖ over micro-batches and workers, weighted by rows, float32 [K].
        mean_squared_norm: mean‖g_n‖², likewise, float32 [K].
        batch: B, rows of the global batch, a float32 scalar (the sum of the weights for a loss that
            divides by the weights).
        parts: N, micro-batches over all workers, a float32 scalar.
        mean_worker_norm: mean over workers of ‖gradient of a worker‖, float32 [K].
        workers: the number of workers, a float32 scalar.
    """

    squared_norm: tf.Tensor
    mean_norm: tf.Tensor
    mean_squared_norm: tf.Tensor
    batch: tf.Tensor
    parts: tf.Tensor
    mean_worker_norm: tf.Tensor
    workers: tf.Tensor

    @property
    def micro_batch(self):
        """b = B/N: with weights by rows, the exact size for which E mean‖g_n‖² = |G|² + tr Σ/b."""
        return self.batch / self.parts

    @property
    def usable(self):
        """Whether the two sizes differ and all is finite: a bool scalar."""
        finite = tf.reduce_all(tf.math.is_finite(self.squared_norm + self.mean_squared_norm))
        return tf.logical_and(self.parts > 1.5, finite)

    def noise(self):
        """(|G|², tr Σ) a layer, float32 [K]: unbiased estimates from the two batch sizes.

        |G|² ≈ (B‖G_B‖² − b‖G_b‖²)/(B − b), tr Σ ≈ (‖G_b‖² − ‖G_B‖²)/(1/b − 1/B) (McCandlish et al.
        2018, arXiv 1812.06162, appendix A.1). |G|² may come out negative; zeros where N = 1, for
        which the estimates do not exist.
        """
        big, small = self.batch, self.micro_batch
        squared = tf.math.divide_no_nan(
            big * self.squared_norm - small * self.mean_squared_norm, big - small
        )
        trace = tf.math.divide_no_nan(
            self.mean_squared_norm - self.squared_norm, 1.0 / small - 1.0 / big
        )
        single = self.parts < 1.5
        return tf.where(single, 0.0, squared), tf.where(single, 0.0, trace)

    def per_example_norm(self):
        """√(|G|² + tr Σ) a layer: the root mean square norm of the gradient of a single row.

        The line through (1/B, ‖G_B‖²) and (1/b, ‖G_b‖²), continued to 1/1; never below ‖G‖.
        """
        squared, trace = self.noise()
        return tf.sqrt(tf.where(self.parts < 1.5, self.squared_norm, squared + trace))
