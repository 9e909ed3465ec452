"""Data whose number of batches Keras does not know: nothing is done for the step after the last."""

import numpy as np
import pytest

from tests import workers
from tests.horovod import models

job = workers.Job(2)
EPOCHS = 4


def batches_of_this_rank(size=12):
    """A `tf.data.Dataset` of unknown length: this rank's part of batches of `size` rows."""
    import tensorflow as tf

    import tf_lars.horovod as hvd

    x, y = models.data()

    def generate():
        for start in range(0, len(x), size):
            rows = slice(start + hvd.rank(), start + size, hvd.size())
            yield x[rows], y[rows]

    signature = [tf.TensorSpec((None, array.shape[1])) for array in (x, y)]
    return tf.data.Dataset.from_generator(generate, output_signature=tuple(signature))


def optimizer(**options):
    """With much that needs no gradient: weight decay and moving averages."""
    import keras

    return keras.optimizers.AdamW(0.01, weight_decay=0.5, use_ema=True, ema_momentum=0.5, **options)


def state_of(model, optimizer):
    return models.flat([*model.trainable_variables, *optimizer.variables])


def whole_batches(optimizer):
    """What one process gets from all rows, whose number it knows."""
    model = models.mlp()
    models.train_whole(model, optimizer, *models.data(), batch=12, epochs=EPOCHS)
    return state_of(model, optimizer)


def check_ranks(expected, own, overlap=False, **compile_options):
    import tf_lars.horovod as hvd

    model, optimizer = models.mlp(), hvd.DistributedOptimizer(own, overlap=overlap)
    model.compile(optimizer, "mse", **compile_options)
    model.fit(batches_of_this_rank(), epochs=EPOCHS, verbose=0)
    state = state_of(model, optimizer)
    np.testing.assert_allclose(state, expected, atol=2e-6, rtol=1e-6)
    assert models.spread(state) == 0


@job.check
def test_the_step_after_the_last_batch_changes_nothing():
    expected = whole_batches(optimizer())
    check_ranks(expected, optimizer())
    check_ranks(expected, optimizer(), overlap=True)
    check_ranks(expected, optimizer(), jit_compile=True)
    check_ranks(expected, optimizer(), steps_per_execution=3)  # the last execution has one step


@job.check
def test_a_step_that_may_not_update_is_counted_right_too():
    import keras

    def accumulating():
        return optimizer(gradient_accumulation_steps=2)

    def scaled():
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))

    for make in (accumulating, scaled):
        check_ranks(whole_batches(make()), make())


@job.check
def test_a_python_generator_counts_its_batches():
    import tf_lars.horovod as hvd

    model, own = models.mlp(), hvd.DistributedOptimizer(optimizer())
    model.compile(own, "mse")
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit((batch for batch in batches_of_this_rank().as_numpy_iterator()), verbose=0)
    assert int(own.iterations) == 4
