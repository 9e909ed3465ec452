"""Splitting a batch into micro-batches inside a compiled loop."""

import keras
import tensorflow as tf

# Means, whose value for a batch follows from those of its parts; a sum or a vector is refused.
_COUNTED_BY_ROWS = ("sum_over_batch_size", "mean")
_COUNTED_BY_WEIGHTS = ("mean_with_sample_weight",)


def rows(batch):
    """The number of rows of a nested batch, a scalar tensor: the size of its first dimension."""
    return tf.shape(_first(batch))[0]


def static_rows(batch):
    """The number of rows where the shapes tell it, else None."""
    return _first(batch).shape[0]


def _first(batch):
    return next(x for x in keras.tree.flatten(batch) if x is not None)


def part(batch, index, size):
    """Micro-batch number `index`: rows index·size … (index + 1)·size, fewer at the end."""
    start = index * size
    total = static_rows(batch)
    exact = isinstance(size, int) and total is not None and total % size == 0

    def cut(x):
        if x is None:
            return None
        piece = x[start : start + size]
        if exact:
            piece.set_shape([size, *x.shape[1:]])
        return piece

    return keras.tree.map_structure(cut, batch)


def counted_by(losses):
    """How much a micro-batch's mean loss counts in that of the batch: "rows" or "weights".

    Args:
        losses: the `loss` given to `compile`: None, a name, a function, a `keras.losses.Loss`, or a
            nest of these.

    Raises:
        ValueError: a loss that is no mean, or means of both kinds.
    """
    kinds = set()
    for loss in keras.tree.flatten(losses):
        if loss is None:
            continue
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction not in (*_COUNTED_BY_ROWS, *_COUNTED_BY_WEIGHTS):
            raise ValueError(
                f"loss {getattr(loss, 'name', loss)!r} has reduction={reduction!r}; a batch split "
                "into micro-batches needs a mean: reduction='sum_over_batch_size' (over rows) or "
                "'mean_with_sample_weight' (over weights)."
            )
        kinds.add("weights" if reduction in _COUNTED_BY_WEIGHTS else "rows")
    if len(kinds) > 1:
        raise ValueError(
            "loss mixes reduction='sum_over_batch_size' with 'mean_with_sample_weight': use one of "
            "them for all outputs, so that a micro-batch has one weight."
        )
    return kinds.pop() if kinds else "rows"


def count(kind, batch):
    """A micro-batch's weight in the mean over the batch, a float32 scalar; `batch` is (x, y, w)."""
    sample_weight = batch[2]
    if kind == "rows" or sample_weight is None:
        return tf.cast(rows(batch), tf.float32)
    weights = keras.tree.flatten(sample_weight)
    if len(weights) != 1:
        raise ValueError(
            "reduction='mean_with_sample_weight' takes one sample_weight for all outputs; got "
            f"{len(weights)}."
        )
    return tf.reduce_sum(tf.cast(weights[0], tf.float32))
