"""AdaScale: the learning rate of a small batch, scaled by what the large batch is worth."""

import keras
import tensorflow as tf

from tf_lars.training import requests
from tf_lars.training.state import checked


class AdaScale(keras.callbacks.Callback):
    """Sets the learning rate of every update by AdaScale's gain, and counts progress with it.

    With S = B/base_batch, σ² = tr Σ/base_batch the variance of a base batch's gradient and
    μ² = |G|², both averaged over steps,

        r = (σ² + μ²)/(σ²/S + μ²) ∈ [1, S],   γ_t = r·γ(⌊τ⌋),   τ ← τ + r,

    where γ is the schedule found for the base batch, as a function of base updates, and τ says how
    many of those an update was worth. Training stops when τ reaches `total_progress`: it has then
    made as much progress as that many updates of the base batch, with fewer updates than that and
    no new tuning.

    Args:
        learning_rate: γ, a number or a `LearningRateSchedule`, for `base_batch`.
        base_batch: rows of the batch that γ was found for, at least 1.
        total_progress: base updates after which `fit` stops; None: after its epochs.
        smoothing: θ of the moving averages of σ² and μ², in [0, 1); None takes
            max(1 − S/1000, 0), as in the paper.
        progress: τ to begin with, for a run that goes on.

    Attributes:
        progress: τ, a float.
        gain: r of the last update, a float.

    Raises:
        ValueError: an argument is out of range; the model is no `LargeBatchModel`, or its optimizer
            was built with a schedule of its own.

    Example:
        >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
        >>> adascale = AdaScale(WarmupStep(0.1, [30000, 60000]), 256, total_progress=90000)
        >>> model.fit(images, labels, batch_size=4096, epochs=1000, callbacks=[adascale])

    Source: Johnson et al. 2020, "AdaScale SGD", arXiv 2007.05105, algorithm 1 and section 3.
    """

    def __init__(
        self, learning_rate, base_batch, total_progress=None, smoothing=None, progress=0.0
    ):
        super().__init__()
        is_schedule = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        if not is_schedule and not learning_rate > 0:
            raise ValueError(f"learning_rate={learning_rate!r} must be positive or a schedule.")
        if not base_batch >= 1:
            raise ValueError(f"base_batch={base_batch!r} must be at least 1.")
        if total_progress is not None and not total_progress > 0:
            raise ValueError(f"total_progress={total_progress!r} must be positive.")
        if smoothing is not None and not 0 <= smoothing < 1:
            raise ValueError(f"smoothing={smoothing!r} must be in [0, 1).")
        if not progress >= 0:
            raise ValueError(f"progress={progress!r} must not be negative.")
        self._schedule = learning_rate if is_schedule else lambda step: learning_rate
        self.base_batch, self.total_progress = base_batch, total_progress
        self.smoothing = smoothing
        self._progress = tf.Variable(progress, dtype=tf.float64)
        self._gain = tf.Variable(1.0)
        # Moving averages of σ² and μ², and the sum of their weights.
        self._averages = tf.Variable(tf.zeros([3]))

    @property
    def progress(self):
        return float(self._progress.numpy())

    @property
    def gain(self):
        return float(self._gain.numpy())

    def set_model(self, model):
        super().set_model(model)
        if not hasattr(model, "observers"):
            raise ValueError("AdaScale needs a LargeBatchModel, whose micro-batches it compares.")
        rate = requests.innermost(model.optimizer)._learning_rate
        if not isinstance(rate, keras.Variable):
            raise ValueError(
                "The optimizer has a learning-rate schedule of its own: give it a number, and the "
                "schedule to AdaScale(learning_rate=…)."
            )

    def observe(self, statistics):
        """The gain and the learning rate of this update, inside the graph."""
        squared, trace = (tf.reduce_sum(values) for values in statistics.noise())
        scale = statistics.batch / self.base_batch
        smoothing = tf.maximum(1.0 - scale / 1000.0, 0.0)
        if self.smoothing is not None:
            smoothing = tf.constant(float(self.smoothing))
        new = tf.stack([trace / self.base_batch, squared, 1.0])
        averages = smoothing * self._averages + (1.0 - smoothing) * new
        averages = tf.where(statistics.usable, averages, self._averages)
        variance, mean = tf.unstack(tf.math.divide_no_nan(averages[:2], averages[2]))
        gain = gain_ratio(variance, tf.maximum(mean, 0.0), scale)
        rate = requests.innermost(self.model.optimizer)._learning_rate
        step = tf.floor(self._progress)
        rate.assign(tf.cast(gain * tf.cast(self._schedule(step), tf.float32), rate.dtype))
        self._averages.assign(averages)
        self._gain.assign(gain)
        self._progress.assign_add(tf.cast(gain, tf.float64))

    def get_state(self):
        """Progress, gain and averages, as JSON takes them; see `tf_lars.training.state`."""
        return {
            "progress": self.progress,
            "gain": self.gain,
            "averages": self._averages.numpy().tolist(),
        }

    def set_state(self, state):
        """Goes on from what `get_state` gave.

        Raises:
            ValueError: it is no such state.
        """
        progress, gain, averages = checked(self, state, ("progress", "gain", "averages"))
        self._progress.assign(progress)
        self._gain.assign(gain)
        self._averages.assign(averages)

    def on_train_batch_end(self, batch, logs=None):
        if self.total_progress is not None and self.progress >= self.total_progress:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(adascale_gain=self.gain, adascale_progress=self.progress)


def gain_ratio(variance, mean, scale):
    """r = (σ² + μ²)/(σ²/S + μ²) in [1, S]; 1 where nothing is known (both zero) or S < 1."""
    gain = tf.math.divide_no_nan(variance + mean, variance / scale + mean)
    return tf.clip_by_value(gain, 1.0, tf.maximum(scale, 1.0))
