"""From each worker's sums to the mean gradient over the global batch, and its statistics."""

import tensorflow as tf

from tf_lars.training.accumulation import mean
from tf_lars.training.statistics import LayerStatistics, norms


def combine(workers, variables, gradients, squares, sums, parts, scale, wanted):
    """The mean gradients over the global batch, those of their squares, and `LayerStatistics`.

    A worker with c of the C rows contributes its own mean times c·W/C, so that the plain mean over
    W workers, which is what their optimizer's reduction computes, is the mean over all rows.

    Args:
        workers: the optimizer that joins the workers, or None.
        variables: the trainable variables.
        gradients: this worker's mean gradients; None for a variable without.
        squares: its mean squared gradients, element by element; empty if nobody asked.
        sums: its `Sums`.
        parts: its number of micro-batches, a float32 scalar.
        scale: the loss scale that is in the gradients.
        wanted: whether to collect the statistics; None is returned for them if not.
    """
    small = [tf.stack([1.0, sums.count, parts])]
    if wanted:
        small += [sums.norms, sums.squared_norms, sums.count * norms(gradients)]
    if workers is not None:
        sizes = [vector.shape[0] for vector in small]
        small = tf.split(workers.reduction.sum(tf.concat(small, 0)), sizes)
        number, count, _ = tf.unstack(small[0])
        weight = mean(sums.count * number, count)
        gradients = _reduced(workers, gradients, variables, weight)
        squares = _reduced(workers, squares, variables, weight)
    squares = [None if s is None else s / scale**2 for s in squares]
    if not wanted:
        return gradients, squares, None
    number, count, parts = tf.unstack(small[0])
    mean_norm, mean_squared_norm, mean_worker_norm = (mean(total, count) for total in small[1:])
    return (
        gradients,
        squares,
        LayerStatistics(
            squared_norm=tf.square(norms(gradients) / scale),
            mean_norm=mean_norm / scale,
            mean_squared_norm=mean_squared_norm / scale**2,
            batch=count,
            parts=parts,
            mean_worker_norm=mean_worker_norm / scale,
            workers=number,
        ),
    )


def _reduced(workers, tensors, variables, weight):
    if not tensors:
        return tensors
    weighted = [None if t is None else t * tf.cast(weight, t.dtype) for t in tensors]
    return workers.reduce_gradients(weighted, variables)
