"""Loss and accuracy on the test split, over all workers, every example exactly once."""

import functools

import numpy as np
import tensorflow as tf

from trainers.data.pipeline import evaluation_data

TOP = 5  # ImageNet's second measure: the label is among so many best guesses


class Evaluator:
    """Evaluates a model: call it for {"loss", "top1"}, the same on every worker.

    With more than five classes there is "top5" as well.

    Args:
        model: a Keras model that gives logits.
        dataset: the data set, see trainers.data.
        batch: the most images that a worker takes at once.
        workers: the workers that share the test split.
    """

    def __init__(self, model, dataset, batch, workers):
        self.batches = evaluation_data(dataset, batch, workers)
        self.workers = workers
        self.top5 = dataset.classes > TOP
        self._sums = tf.function(functools.partial(_sums, model, self.top5))

    def __call__(self):
        total = np.zeros(4)
        for batch in self.batches:
            total += self._sums(*batch).numpy()
        *sums, examples = self.workers.sum(total)
        names = ("loss", "top1", "top5") if self.top5 else ("loss", "top1")
        return {name: value / examples for name, value in zip(names, sums, strict=False)}


def _sums(model, top5, images, labels, weights):
    """Weighted sums of cross-entropy, hits and hits in five, and of the weights: float64 [4]."""
    logits = tf.cast(model(images, training=False), tf.float32)
    losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
    targets = tf.argmax(labels, -1)
    hits = tf.cast(tf.argmax(logits, -1) == targets, tf.float32)
    near = tf.cast(tf.math.in_top_k(targets, logits, TOP), tf.float32) if top5 else hits
    # a row of weight zero counts for nothing even where the model has diverged
    losses = tf.where(weights > 0, losses * weights, 0.0)
    sums = (losses, hits * weights, near * weights, weights)
    return tf.stack([tf.reduce_sum(tf.cast(x, tf.float64)) for x in sums])
