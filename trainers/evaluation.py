"""Loss and accuracy on the test split, over all workers, every example exactly once."""

import numpy as np
import tensorflow as tf

from trainers.data.pipeline import evaluation_data


class Evaluator:
    """Evaluates a model: call it for {"loss", "top1"}, the same on every worker.

    Args:
        model: a Keras model that gives logits.
        dataset: the data set, see trainers.data.
        batch: the most images that a worker takes at once.
        workers: the workers that share the test split.
    """

    def __init__(self, model, dataset, batch, workers):
        self.batches = evaluation_data(dataset, batch, workers)
        self.workers = workers
        self._sums = tf.function(lambda *batch: _sums(model, *batch))

    def __call__(self):
        total = np.zeros(3)
        for batch in self.batches:
            total += self._sums(*batch).numpy()
        loss, correct, examples = self.workers.sum(total)
        return {"loss": loss / examples, "top1": correct / examples}


def _sums(model, images, labels, weights):
    """Weighted sums of cross-entropy and of hits, and the sum of the weights: float64 [3]."""
    logits = tf.cast(model(images, training=False), tf.float32)
    losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
    hits = tf.cast(tf.argmax(logits, -1) == tf.argmax(labels, -1), tf.float32)
    # a row of weight zero counts for nothing even where the model has diverged
    losses = tf.where(weights > 0, losses * weights, 0.0)
    sums = [tf.reduce_sum(tf.cast(x, tf.float64)) for x in (losses, hits * weights, weights)]
    return tf.stack(sums)
