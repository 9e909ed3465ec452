"""MixUp, CutMix and RandAugment by Keras's layers, drawn from a seed instead of a state.

The layers keep a random state of their own, which a run that goes on would not have.
"""

import functools

import keras
import tensorflow as tf
from keras import layers


class _Seeds(keras.random.SeedGenerator):
    """Draws that follow from one seed alone: a SeedGenerator without a variable.

    Args:
        seed: [2] integers.
    """

    def __init__(self, seed):
        self._seed = tf.cast(seed, tf.int32)
        self._drawn = 0

    def next(self, ordered=True):
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._drawn)


class Mixing:
    """Mixes each image and its label with another of the batch: MixUp, CutMix or either.

    MixUp blends them in shares drawn from Beta(α, α) (Zhang et al. 2018, arXiv 1710.09412). CutMix
    puts a rectangle of the other image into the first and mixes the labels by area (Yun et al.
    2019, arXiv 1905.04899); the area is drawn from Beta(a, a) too, with an a below the bound for
    each batch, as Keras's layer does. With both, each batch is mixed by one or the other, as likely
    as not.

    Args:
        mixup: α, in (0, 1]; 0 for none.
        cutmix: upper bound of a, in (0, 1]; 0 for none.
    """

    def __init__(self, mixup=0.0, cutmix=0.0):
        self.layers = []
        if mixup:
            self.layers.append(layers.MixUp(mixup))
        if cutmix:
            self.layers.append(layers.CutMix(cutmix))

    def __call__(self, images, labels, seed):
        """The mixed images [b, h, w, c] and labels [b, classes]; `seed` is two integers."""
        if not self.layers:
            return images, labels
        if len(self.layers) == 1:
            return _mixed(self.layers[0], images, labels, seed)
        choice = tf.random.stateless_uniform([], seed, 0, 2, tf.int32)
        branches = [functools.partial(_mixed, x, images, labels, seed) for x in self.layers]
        return tf.switch_case(choice, branches)


def _mixed(layer, images, labels, seed):
    transformation = layer.get_random_transformation(images, seed=_Seeds(seed))
    return (
        tf.ensure_shape(layer.transform_images(images, transformation), images.shape),
        tf.ensure_shape(layer.transform_labels(labels, transformation), labels.shape),
    )


class RandAugment:
    """Two random changes of an image, one after the other (Cubuk et al. 2020, arXiv 1909.13719).

    Keras's own RandAugment computes all eleven changes of a whole batch and keeps two of them;
    here each image draws its own two, and only they are computed.

    Args:
        strength: of the changes, in (0, 1].
        operations: number of changes.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, strength, operations=2):
        if not 0 < strength <= 1:
            raise ValueError(f"strength must be in (0, 1]; got {strength}")
        if operations < 1:
            raise ValueError(f"operations must be at least 1; got {operations}")
        self.operations = operations
        levels = {"value_range": (0, 255)}
        self.layers = [
            layers.RandomShear(strength, strength),
            layers.RandomTranslation(strength, strength),
            layers.RandomRotation(strength),
            layers.RandomBrightness(strength, **levels),
            layers.RandomColorDegeneration(strength, **levels),
            layers.RandomContrast(strength, **levels),
            layers.RandomSharpness(strength, **levels),
            layers.RandomPosterization(max(1, int(8 * strength)), **levels),
            layers.Solarization(strength, strength, **levels),
            layers.AutoContrast(**levels),
            layers.Equalization(**levels),
        ]

    def __call__(self, image, seed):
        """The image [height, width, 3], levels of 0 to 255, changed; `seed` is two integers."""
        choices = tf.random.stateless_uniform(
            [self.operations], seed, 0, len(self.layers), tf.int32
        )
        for index in range(self.operations):
            its_seed = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), index)
            branches = [_change(layer, image, its_seed) for layer in self.layers]
            image = tf.ensure_shape(tf.switch_case(choices[index], branches), image.shape)
        return image


def _change(layer, image, seed):
    def change():
        images = image[None]
        transformation = layer.get_random_transformation(images, seed=_Seeds(seed))
        return tf.cast(layer.transform_images(images, transformation)[0], tf.float32)

    return change
