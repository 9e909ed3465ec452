"""A data set that fits in memory."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ArrayDataSet:
    """Images and labels as arrays.

    What a data set of any kind offers: `name`, `classes`, `image_shape`, `examples(split)` and
    `fetch(split)`.

    Args:
        name: what the user calls it.
        classes: number of classes.
        train, test: (images [n, height, width, channels] float32, labels [n] integer).
    """

    name: str
    classes: int
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def image_shape(self):
        return self.train[0].shape[1:]

    def examples(self, split):
        """Number of examples of the split, "train" or "test"."""
        return len(getattr(self, split)[0])

    def fetch(self, split):
        """A function for `tf.data`: indices [b] → (images [b, …], one-hot labels [b, classes])."""
        import tensorflow as tf

        images, labels = (tf.constant(array) for array in getattr(self, split))
        return lambda indices: (
            tf.gather(images, indices),
            tf.one_hot(tf.gather(labels, indices), self.classes),
        )
