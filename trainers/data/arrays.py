"""A data set that fits in memory."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ArrayDataSet:
    """Images and labels as arrays.

    What a data set of any kind offers: `name`, `classes`, `image_shape`, `examples(split)`,
    `training_batches(parts)` and `evaluation_batches(parts)`; and before that `prepare(workers)`,
    which gives the data set once its files are there.

    Args:
        name: what the user calls it.
        classes: number of classes.
        train, test: (images [n, height, width, channels], labels [n] integer).
        mean, std: the images are served as (images − mean) / std in float32; numbers, or one for
            each channel.
    """

    name: str
    classes: int
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    mean: float | np.ndarray = 0.0
    std: float | np.ndarray = 1.0

    def prepare(self, workers):
        """The data set, ready."""
        return self

    @property
    def image_shape(self):
        return self.train[0].shape[1:]

    def examples(self, split):
        """Number of examples of the split, "train" or "test"."""
        return len(getattr(self, split)[0])

    def training_batches(self, parts):
        """Batches (images, one-hot labels) for `parts`, a tf.data of (rows [b], seed [2])."""
        fetch = self._fetch("train")
        return _map(parts, lambda rows, seed: fetch(rows))

    def evaluation_batches(self, parts):
        """Batches (images, one-hot labels, weights) for `parts`, of (rows [b], weights [b])."""
        fetch = self._fetch("test")
        return _map(parts, lambda rows, weights: (*fetch(rows), weights))

    def _fetch(self, split):
        import tensorflow as tf

        with tf.device("CPU"):
            images, labels = (tf.constant(array) for array in getattr(self, split))
        mean, scale = (np.asarray(x, np.float32) for x in (self.mean, 1 / np.asarray(self.std)))

        def fetch(rows):
            pixels = tf.cast(tf.gather(images, rows), tf.float32)
            return (pixels - mean) * scale, tf.one_hot(tf.gather(labels, rows), self.classes)

        return fetch


def _map(parts, function):
    import tensorflow as tf

    return parts.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
