"""The exponential moving averages of the weights, which --ema_momentum asks Keras to keep."""

import contextlib

import keras


@contextlib.contextmanager
def averaged_weights(model):
    """Gives the model the averages in place of its weights for a while, if there are any.

    ā ← m·ā + (1 − m)·w after every update, ā = w after the first (Polyak and Juditsky 1992, as
    Keras's `use_ema` does it). What is evaluated, BatchNorm's statistics included, is the network
    that is exported in the end; training goes on with the weights themselves, bit for bit.

    Args:
        model: a compiled model.

    Example:
        >>> with averaged_weights(model):
        ...     accuracy = evaluate(model)
    """
    pairs = list(_pairs(model))
    own = [keras.ops.convert_to_numpy(weight) for weight, _ in pairs]
    for weight, average in pairs:
        weight.assign(average)
    try:
        yield
    finally:
        for (weight, _), value in zip(pairs, own, strict=True):
            weight.assign(value)


def _pairs(model):
    """(weight, its average) of every trained variable; none before the first update."""
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    if not optimizer.use_ema or not optimizer.built or not int(optimizer.iterations):
        return ()
    averages = optimizer._model_variables_moving_average
    return zip(model.trainable_variables, averages, strict=True)
