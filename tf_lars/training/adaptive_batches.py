"""Batches that grow when the noise of the gradient says so."""

import keras
import numpy as np
import tensorflow as tf

from tf_lars.training.growing_batches import batched
from tf_lars.training.noise_scale import NoiseScale
from tf_lars.training.state import checked


class AdaptiveBatches(keras.callbacks.Callback):
    """The norm test as a batch schedule: after each epoch the batch is large enough, within bounds.

    The gradient of a batch points the right way if its variance is small against its square,

        tr Σ/B ≤ θ²|G|²,   that is   B ≥ B_simple/θ².

    After an epoch B ← B_simple/θ², but not below the present batch, nor above `max_growth` times
    it, nor above `max_batch`; rounded down to a multiple of `multiple_of`. An estimate that does
    not stand out of its error leaves B alone. The learning rate is not touched. All workers decide
    alike, since their statistics are the same.

    Args:
        rows: a `tf.data.Dataset` of single rows, this worker's part of the data.
        noise: a `NoiseScale` that stands before this callback in `fit`'s list.
        batch: the first global batch.
        examples: N, rows of the whole data set over all workers.
        max_batch: the largest global batch; a tenth of the data set if None.
        theta: θ > 0; 1 asks for a batch of the size of the noise scale.
        max_growth: by how much the batch grows at most after an epoch, above 1.
        multiple_of: a multiple of the number of workers.
        workers: number of workers.

    Attributes:
        history: the global batch of each epoch.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> noise = NoiseScale()
        >>> adaptive = AdaptiveBatches(rows, noise, batch=256, examples=60000)
        >>> model.fit(adaptive.dataset, epochs=20, callbacks=[noise, adaptive])

    Source: Byrd et al. 2012, "Sample size selection in optimization methods for machine learning",
    Mathematical Programming 134, equation 3.3.
    """

    def __init__(
        self,
        rows,
        noise,
        batch,
        examples,
        max_batch=None,
        theta=1.0,
        max_growth=2.0,
        multiple_of=1,
        workers=1,
    ):
        super().__init__()
        if not isinstance(noise, NoiseScale):
            raise ValueError(f"noise={noise!r} must be the NoiseScale callback of the same fit.")
        if max_batch is None:
            max_batch = max(examples // 10, batch)
        if not max(workers, 1) <= batch <= max_batch <= examples:
            raise ValueError(
                f"batch={batch!r} and max_batch={max_batch!r} must satisfy workers ({workers}) ≤ "
                f"batch ≤ max_batch ≤ examples ({examples})."
            )
        if multiple_of % workers or batch % multiple_of:
            raise ValueError(
                f"multiple_of={multiple_of!r} must be a multiple of the {workers} workers, and "
                f"batch={batch!r} a multiple of it."
            )
        for name, value, low in (("theta", theta, 0), ("max_growth", max_growth, 1)):
            if not value > low:
                raise ValueError(f"{name}={value!r} must be above {low}.")
        self.noise, self.batch, self.examples, self.max_batch = noise, batch, examples, max_batch
        self.theta, self.max_growth = theta, max_growth
        self.multiple_of, self.workers = multiple_of, workers
        self.history = []
        sizes = tf.data.Dataset.from_generator(
            self._sizes, output_signature=tf.TensorSpec([None], tf.int64)
        )
        unit = multiple_of // workers
        self.dataset = sizes.flat_map(lambda sizes: batched(rows, sizes, unit)).prefetch(2)

    def _sizes(self):
        yield np.full(self.examples // self.batch, self.batch // self.workers)

    def on_epoch_end(self, epoch, logs=None):
        self.history.append(self.batch)
        if logs is not None:
            logs["batch_size"] = self.batch
        self.batch = self.next_batch(self.noise.noise())

    def get_state(self):
        """The batch and the history, as JSON takes them; `noise` has a state of its own."""
        return {"batch": self.batch, "history": list(self.history)}

    def set_state(self, state):
        """Goes on from what `get_state` gave.

        Raises:
            ValueError: it is no such state, or its batch is not within the bounds.
        """
        batch, history = checked(self, state, ("batch", "history"))
        if batch % self.multiple_of or not self.workers <= batch <= self.max_batch:
            raise ValueError(
                f"the state's batch, {batch}, must be a multiple of {self.multiple_of} and at most "
                f"max_batch={self.max_batch}."
            )
        self.batch, self.history = batch, list(history)

    def next_batch(self, noise):
        """The batch after an epoch that measured `noise`."""
        if not noise.error < noise.simple:
            return self.batch
        wanted = min(noise.simple / self.theta**2, self.max_growth * self.batch, self.max_batch)
        return max(self.batch, int(wanted) // self.multiple_of * self.multiple_of)
