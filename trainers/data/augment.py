"""Random changes of training images, drawn from a seed that says which batch it is."""

import tensorflow as tf


def random_shift(images, pixels, seed):
    """Shifts each image by up to `pixels` in both directions; the border repeats.

    Args:
        images: [batch, height, width, channels].
        pixels: the largest shift.
        seed: two integers; the same seed gives the same shifts.
    """
    if not pixels:
        return images
    batch, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    shifts = tf.random.stateless_uniform([2, batch], seed, -pixels, pixels + 1, tf.int32)
    rows = tf.clip_by_value(shifts[0][:, None] + tf.range(height), 0, height - 1)
    columns = tf.clip_by_value(shifts[1][:, None] + tf.range(width), 0, width - 1)
    images = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def random_flip(images, seed):
    """Mirrors each image from left to right or leaves it, as likely as not."""
    flips = tf.random.stateless_uniform([tf.shape(images)[0]], seed) < 0.5
    return tf.where(flips[:, None, None, None], tf.reverse(images, [2]), images)
