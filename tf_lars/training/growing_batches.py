"""A `tf.data` pipeline whose batches follow a `BatchSizeSchedule`, for Keras's `fit`."""

import math

import keras
import numpy as np
import tensorflow as tf


class GrowingBatches(keras.callbacks.Callback):
    """Batches of the sizes that a schedule asks for, also through a change in mid-epoch.

    It is the data set and a callback in one: Keras tells it the number of each epoch, so that a
    run that goes on with `initial_epoch` takes the sizes of that epoch.

    Args:
        rows: a `tf.data.Dataset` of single rows, this worker's part of the data, shuffled as you
            like.
        schedule: a `tf_lars.schedules.BatchSizeSchedule` of global batches.
        examples: N, rows of the whole data set over all workers.
        workers: number of workers; each takes its share of every batch.

    Raises:
        ValueError: a batch is below the number of workers, not divisible by it, or larger than the
            data set; a micro-batch is larger than a worker's smallest batch (in `fit`); or batches
            shrink, which `fit` cannot follow (it takes no more steps in an epoch than in the
            first).

    Example:
        >>> growing = GrowingBatches(rows.shuffle(60000), schedule, examples=60000)
        >>> model.fit(growing.dataset, epochs=10, callbacks=[growing])
    """

    def __init__(self, rows, schedule, examples, workers=1):
        super().__init__()
        schedule.check(examples, workers)
        if list(schedule.batches) != sorted(schedule.batches):
            raise ValueError(
                f"batches={list(schedule.batches)} shrinks: Keras's fit takes no more steps in an "
                "epoch than in the first."
            )
        self.schedule, self.examples, self.workers = schedule, examples, workers
        self._epoch = 0
        sizes = tf.data.Dataset.from_generator(
            self._sizes, output_signature=tf.TensorSpec([None], tf.int64)
        )
        unit = math.gcd(*schedule.batches) // workers
        self.dataset = sizes.flat_map(lambda sizes: batched(rows, sizes, unit)).prefetch(2)

    def set_model(self, model):
        super().set_model(model)
        size = getattr(model, "micro_batch_size", None) or 1
        if size > min(self.schedule.batches) // self.workers:
            raise ValueError(
                f"micro_batch_size={size} is larger than the smallest batch of a worker, "
                f"{min(self.schedule.batches) // self.workers} rows "
                f"(batches={list(self.schedule.batches)}, {self.workers} workers)."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def _sizes(self):
        yield np.array(self.schedule.epoch(self._epoch, self.examples)) // self.workers


def batched(rows, sizes, unit):
    """The rows in batches of the given sizes, each a multiple of `unit`."""
    # Grouping costs time for each element, so rows are grouped in pieces as large as will do.
    counts = sizes // unit
    ends = tf.cumsum(counts)

    def number(index, piece):
        return tf.searchsorted(ends, [index], side="right", out_type=tf.int64)[0]

    def joined(key, window):
        return window.batch(counts[key]).map(
            lambda index, pieces: keras.tree.map_structure(_flat, pieces)
        )

    pieces = rows.batch(unit, drop_remainder=True).take(ends[-1])
    return pieces.enumerate().group_by_window(
        number, joined, window_size_func=lambda key: counts[key]
    )


def _flat(pieces):
    """[pieces, unit, …] as [rows, …]."""
    flat = tf.reshape(pieces, tf.concat([[-1], tf.shape(pieces)[2:]], 0))
    flat.set_shape([None, *pieces.shape[2:]])
    return flat
