"""Data sets that lie on a disk as image files or records, decoded as they are needed."""

import dataclasses
import typing

import tensorflow as tf
from absl import logging

from trainers.data.decode import Crop, evaluation_image, normalised, training_image
from trainers.data.skipping import decoded_batches
from trainers.errors import ConfigError


@dataclasses.dataclass
class EncodedDataSet:
    """Images of any size behind two sources; see trainers/data/folder.py and records.py.

    A source has a length, `load(rows)`, which gives the files' bytes [b] and labels [b] for int64
    rows [b] inside a `tf.data` graph, and `file_name(row)`.

    Args:
        name: what the user calls it.
        classes: number of classes.
        sources: {"train": source, "test": source}.
        crop: how a window is chosen from an image.
        image_size, eval_image_size: side of an image in training and in evaluation, in pixels.
        max_corrupt_images: how many images a worker may leave out because they do not decode.
        augment: further function of one training image and its seed, or None.
    """

    name: str
    classes: int
    sources: dict
    crop: Crop
    image_size: int
    eval_image_size: int
    max_corrupt_images: int = 100
    augment: typing.Callable | None = None
    corrupt_images: list[str] = dataclasses.field(default_factory=list, init=False)

    @property
    def image_shape(self):
        return (self.image_size, self.image_size, 3)

    def examples(self, split):
        """Number of examples of the split, "train" or "test"."""
        return len(self.sources[split])

    def training_batches(self, parts):
        """Batches (images, one-hot labels) for `parts`, a tf.data of (rows [b], seed [2]).

        The place of an image that cannot be decoded is taken by the next one of its batch.
        """

        def with_seeds(rows, seed):
            seeds = [tf.size(rows), 2]
            return rows, tf.random.stateless_uniform(seeds, seed, None, None, tf.int32)

        def decode(data, seed):
            image = training_image(data, seed, self.crop, self.image_size, self.augment)
            return normalised(image)

        batches = self._batches("train", parts.map(with_seeds), decode, _replace)
        return batches.map(lambda images, labels, _: (images, self._one_hot(labels)))

    def evaluation_batches(self, parts):
        """Batches (images, one-hot labels, weights) for `parts`, of (rows [b], weights [b]).

        An image that cannot be decoded gets weight zero.
        """

        def decode(data, _):
            return normalised(evaluation_image(data, self.crop, self.eval_image_size))

        def weightless(images, labels, weights, good):
            return images, labels, tf.where(good, weights, 0.0)

        batches = self._batches("test", parts, decode, weightless)
        return batches.map(lambda images, labels, *rest: (images, self._one_hot(labels), *rest))

    def _batches(self, split, parts, decode, repair):
        source = self.sources[split]

        def report(row, error):
            self._count(source.file_name(row), error)

        return decoded_batches(parts, source, decode, report, repair).prefetch(1)

    def _one_hot(self, labels):
        return tf.one_hot(labels, self.classes)

    def _count(self, name, error):
        if name in self.corrupt_images:
            return
        self.corrupt_images.append(name)
        logging.warning("%s cannot be decoded and is left out: %s", name, _first_line(error))
        if len(self.corrupt_images) > self.max_corrupt_images:
            raise ConfigError(
                f"{len(self.corrupt_images)} images of {self.name} cannot be decoded, more than "
                f"--max_corrupt_images={self.max_corrupt_images}; the last is {name}."
            )


def _replace(images, labels, seeds, good):
    """Puts the next good image, the first after the last, in the place of a bad one."""
    if not tf.reduce_any(good):
        raise ConfigError(
            "no image of a whole batch can be decoded; warnings above name them and say why."
        )
    places = tf.where(good)[:, 0]
    following = tf.searchsorted(places, tf.range(tf.size(good), dtype=tf.int64))
    rows = tf.gather(places, following % tf.size(places))
    return tf.gather(images, rows), tf.gather(labels, rows), seeds


def _first_line(error):
    return error.message.partition("\n")[0]
