"""Two logical CPUs for the tests under tf.distribute."""

import functools

import tensorflow as tf


@functools.cache
def two_devices():
    """The strategy of the whole process: TensorFlow's collectives of a second one would collide."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
