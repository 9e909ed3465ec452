"""From the bytes of an image file to a normalised image; only the window needed is decoded."""

import dataclasses

import tensorflow as tf

# Of ImageNet's pixels, in levels of 0 to 255; the same in every public recipe.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# Evaluation looks at the middle 224 pixels of an image of 256, whatever the size.
_CENTRE = 0.875


@dataclasses.dataclass(frozen=True)
class Crop:
    """How a window is chosen: functions that give [y, x, height, width] of an image in pixels.

    Args:
        train: function of (shape [3] int32, seed [2] int32), for one image.
        test: function of shape.
        flip: whether training mirrors every second image.
    """

    train: callable
    test: callable
    flip: bool = True


def _random_area(shape, seed):
    """A window of 8 to 100 % of the area and an aspect of 3/4 to 4/3 (Szegedy et al. 2015)."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def _random_warped(shape, seed):
    """The window of a random 224×224 crop of the image warped to 256×256."""
    size = _part(shape)
    room = tf.cast(shape[:2] - size + 1, tf.float32)
    begin = tf.cast(tf.random.stateless_uniform([2], seed) * room, tf.int32)
    return tf.concat([begin, size], 0)


def _central_square(shape):
    side = tf.reduce_min(_part(shape))
    return _centred(shape, tf.stack([side, side]))


def _central_warped(shape):
    return _centred(shape, _part(shape))


def _whole(shape, seed=None):
    return tf.concat([[0, 0], shape[:2]], 0)


def _part(shape):
    part = tf.cast(tf.round(tf.cast(shape[:2], tf.float32) * _CENTRE), tf.int32)
    return tf.maximum(part, 1)


def _centred(shape, size):
    return tf.concat([(shape[:2] - size) // 2, size], 0)


# By the names that --crop takes.
CROPS = {
    "inception": Crop(_random_area, _central_square),
    "lars": Crop(_random_warped, _central_warped),
    "whole": Crop(_whole, _whole, flip=False),
}


def training_image(data, seed, crop, size, augment=None):
    """A training image of `size`×`size`: cropped, resized, mirrored, in levels of 0 to 255.

    Args:
        data: the bytes of the file, a scalar string tensor.
        seed: [2] int32; the same seed gives the same image.
        crop: a Crop.
        size: side of the image.
        augment: further function of (image, seed), RandAugment say.
    """
    image = _decoded(data, lambda shape: crop.train(shape, seed), size)
    if crop.flip:
        mirrored = tf.random.stateless_uniform([], seed + 1) < 0.5
        image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    if augment is not None:
        image = tf.ensure_shape(augment(image, seed), [size, size, 3])
    return image


def evaluation_image(data, crop, size):
    """An image of `size`×`size` from the middle, in levels of 0 to 255."""
    # The slower transform agrees with other decoders to the level.
    return _decoded(data, crop.test, size, dct_method="INTEGER_ACCURATE")


def normalised(images):
    """Zero mean and unit variance over ImageNet, channel by channel."""
    return (images - tf.constant(IMAGENET_MEAN)) * (1 / tf.constant(IMAGENET_STD))


def _decoded(data, window, size, dct_method=""):
    def jpeg():
        part = window(tf.io.extract_jpeg_shape(data))
        return tf.io.decode_and_crop_jpeg(data, part, channels=3, dct_method=dct_method)

    def other():
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        y, x, height, width = tf.unstack(window(tf.shape(image)))
        return image[y : y + height, x : x + width]

    image = tf.cond(tf.io.is_jpeg(data), jpeg, other)
    return tf.ensure_shape(tf.image.resize(image, [size, size]), [size, size, 3])
