"""From example indices to batches of images."""

import functools
import itertools

import numpy as np
import tensorflow as tf

from trainers.data.sharding import evaluation_batches, worker_batches


def growing_data(dataset, stream, stretches, workers, augment):
    """A worker's batches of the `Stretch`es of a timetable, one stretch after the other.

    Those that are done are among them, empty: with batches of several sizes the shapes are unknown
    then at every start. TensorFlow rounds differently where it knows them.

    `augment`: see `training_data`.
    """
    parts = [
        training_data(
            dataset, stream, part.batch, workers, augment, part.update, part.updates, part.position
        )
        for part in stretches
    ]
    return functools.reduce(tf.data.Dataset.concatenate, parts)


def training_data(
    dataset, stream, global_batch, workers, augment, first_step=0, steps=None, position=None
):
    """A worker's batches (images, one-hot labels) from update `first_step` on, `steps` of them.

    `augment(images, labels, seed)` changes the images and labels of a batch, given two integers
    that are its own. `position`: see `worker_batches`.
    """
    seed_of_the_run = tf.constant(stream.seed, tf.int64)

    def indices():
        batches = worker_batches(
            stream, global_batch, workers.rank, workers.size, first_step, position
        )
        return itertools.islice(batches, steps)

    def seeded(number, rows):
        return rows, tf.stack([seed_of_the_run, number])

    def augmented(batch, number):
        return augment(*batch, [seed_of_the_run, number])

    rows = tf.TensorSpec([global_batch // workers.size], tf.int64)
    signature = (tf.TensorSpec([], tf.int64), rows)
    parts = tf.data.Dataset.from_generator(indices, output_signature=signature).map(seeded)
    numbers = tf.data.Dataset.counter(first_step * workers.size + workers.rank, workers.size)
    batches = tf.data.Dataset.zip(dataset.training_batches(parts), numbers)
    batches = batches.map(augmented, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def evaluation_data(dataset, batch, workers):
    """A worker's batches (images, one-hot labels, weights [b]) of the test split."""
    parts = evaluation_batches(dataset.examples("test"), batch, workers.rank, workers.size)
    indices, weights = (np.stack(column) for column in zip(*parts, strict=True))
    parts = tf.data.Dataset.from_tensor_slices((indices, weights))
    return dataset.evaluation_batches(parts).prefetch(tf.data.AUTOTUNE)
