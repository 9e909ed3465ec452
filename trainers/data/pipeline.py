"""From example indices to batches of images."""

import itertools

import numpy as np
import tensorflow as tf

from trainers.data.sharding import evaluation_batches, worker_batches


def training_data(dataset, stream, global_batch, workers, augment, first_step=0, steps=None):
    """A worker's batches (images, one-hot labels) from update `first_step` on, `steps` of them.

    `augment(images, seed)` changes the images of a batch, given two integers that are its own.
    """
    fetch = dataset.fetch("train")

    def indices():
        batches = worker_batches(stream, global_batch, workers.rank, workers.size, first_step)
        return itertools.islice(batches, steps)

    def examples(number, rows):
        images, labels = fetch(rows)
        return augment(images, [tf.constant(stream.seed, tf.int64), number]), labels

    rows = tf.TensorSpec([global_batch // workers.size], tf.int64)
    signature = (tf.TensorSpec([], tf.int64), rows)
    return _fetched(tf.data.Dataset.from_generator(indices, output_signature=signature), examples)


def evaluation_data(dataset, batch, workers):
    """A worker's batches (images, one-hot labels, weights [b]) of the test split."""
    parts = evaluation_batches(dataset.examples("test"), batch, workers.rank, workers.size)
    indices, weights = (np.stack(column) for column in zip(*parts, strict=True))
    fetch = dataset.fetch("test")
    batches = tf.data.Dataset.from_tensor_slices((indices, weights))
    return _fetched(batches, lambda rows, weight: (*fetch(rows), weight))


def _fetched(batches, fetch):
    fetched = batches.map(fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return fetched.prefetch(tf.data.AUTOTUNE)
