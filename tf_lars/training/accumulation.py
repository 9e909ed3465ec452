"""Sums over micro-batches, as the loop carries them."""

from typing import NamedTuple

import keras
import tensorflow as tf

from tf_lars.training.statistics import squared_norms


class Sums(NamedTuple):
    """Sums over micro-batches, each weighted by its count of rows (or weights)."""

    count: tf.Tensor
    gradients: tuple  # Σ count·g, in float32 or wider
    squares: tuple  # Σ count·g², element by element; empty unless asked for
    norms: tf.Tensor  # Σ count·‖g‖, [K], or [0] unless asked for
    squared_norms: tf.Tensor  # Σ count·‖g‖², likewise

    @classmethod
    def zeros(cls, weights, with_norms, with_squares):
        zeros = tuple(tf.zeros(w.shape, at_least_float32(w.dtype)) for w in weights)
        vector = tf.zeros([len(weights) if with_norms else 0])
        return cls(tf.constant(0.0), zeros, zeros if with_squares else (), vector, vector)

    def plus(self, count, gradients):
        """The sums with one more micro-batch; `gradients` may hold None."""
        sums = self._replace(
            count=self.count + count, gradients=_added(self.gradients, gradients, count)
        )
        if self.squares:
            squares = [None if g is None else tf.square(g) for g in gradients]
            sums = sums._replace(squares=_added(self.squares, squares, count))
        if self.norms.shape[0]:
            squared = squared_norms(gradients)
            sums = sums._replace(
                norms=self.norms + count * tf.sqrt(squared),
                squared_norms=self.squared_norms + count * squared,
            )
        return sums


def _added(totals, values, count):
    return tuple(
        total if value is None else total + tf.cast(count, total.dtype) * value
        for total, value in zip(totals, values, strict=True)
    )


def mean(total, count):
    """total / count, and 0 where nothing was counted (a worker without rows)."""
    return tf.math.divide_no_nan(total, tf.cast(count, total.dtype))


def dense(gradient):
    """A gradient as a dense tensor of at least float32; rows that occur twice are added up."""
    if gradient is None:
        return None
    return tf.cast(tf.convert_to_tensor(gradient), at_least_float32(gradient.dtype))


def at_least_float32(dtype):
    dtype = keras.backend.standardize_dtype(dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype
