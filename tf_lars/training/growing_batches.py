"""A `tf.data` pipeline whose batches follow a `BatchSizeSchedule`, for Keras's `fit`."""

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
            data set; or batches shrink, which `fit` cannot follow (it takes no more steps in an
            epoch than in the first).

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
        ends = tf.data.Dataset.from_generator(
            self._ends, output_signature=tf.TensorSpec([None], tf.int64)
        )
        self.dataset = ends.flat_map(lambda ends: batched(rows, ends)).prefetch(2)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def _ends(self):
        sizes = np.array(self.schedule.epoch(self._epoch, self.examples))
        yield np.cumsum(sizes // self.workers)


def batched(rows, ends):
    """The rows in batches that end at the rows `ends`."""
    sizes = tf.concat([ends[:1], ends[1:] - ends[:-1]], 0)

    def number(index, row):
        return tf.searchsorted(ends, [index], side="right", out_type=tf.int64)[0]

    batches = (
        rows.take(ends[-1])
        .enumerate()
        .group_by_window(
            number,
            lambda key, window: window.batch(sizes[key]),
            window_size_func=lambda key: sizes[key],
        )
    )
    return batches.map(lambda index, row: row)
