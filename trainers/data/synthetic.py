"""Random images of any size, to measure throughput without a disk."""

import dataclasses

from trainers.data.preparing import Unprepared


@dataclasses.dataclass(frozen=True)
class SyntheticDataSet:
    """One batch of noise, made once and served again and again; the label is the row's number.

    Args:
        image_size, eval_image_size: side of an image in training and in evaluation, in pixels.
        classes: number of classes.
        train, test: number of examples.
    """

    image_size: int
    eval_image_size: int
    classes: int
    train: int
    test: int
    name: str = "synthetic"

    @property
    def image_shape(self):
        return (self.image_size, self.image_size, 3)

    def examples(self, split):
        """Number of examples of the split, "train" or "test"."""
        return getattr(self, split)

    def training_batches(self, parts):
        """Batches (images, one-hot labels) for `parts`, a tf.data of (rows [b], seed [2])."""
        serve = self._serve(parts, self.image_size)
        return parts.map(lambda rows, seed: serve(rows))

    def evaluation_batches(self, parts):
        """Batches (images, one-hot labels, weights) for `parts`, of (rows [b], weights [b])."""
        serve = self._serve(parts, self.eval_image_size)
        return parts.map(lambda rows, weights: (*serve(rows), weights))

    def _serve(self, parts, size):
        import tensorflow as tf

        (batch,) = parts.element_spec[0].shape
        with tf.device("CPU"):
            images = tf.random.stateless_normal([batch, size, size, 3], [0, 0])
        return lambda rows: (images, tf.one_hot(rows % self.classes, self.classes))


def synthetic(
    image_size=224, eval_image_size=None, synthetic_classes=1000, synthetic_examples=1_281_167
):
    """Noise in the sizes of ImageNet, or others; a twentieth of the examples is to test on."""
    return Unprepared(
        lambda workers: SyntheticDataSet(
            image_size,
            eval_image_size or image_size,
            synthetic_classes,
            synthetic_examples,
            max(synthetic_examples // 20, 1),
        )
    )
