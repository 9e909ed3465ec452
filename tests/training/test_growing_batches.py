"""Growing batches in fit: the sizes of every step, in mid-epoch, on resume and on workers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import workers
from tests.training.models import assert_same_weights, data, large, plain
from tf_lars.schedules.batch_size import BatchSizeSchedule, grow_batch
from tf_lars.schedules.learning_rate import WarmupStep
from tf_lars.training.growing_batches import GrowingBatches
from tf_lars.training.momentum_correction import MomentumCorrection
from tf_lars.training.noise_scale import NoiseScale

SCHEDULE = BatchSizeSchedule([10, 40, 100], [0.5, 2])


def rows(count=200):
    return tf.data.Dataset.from_tensor_slices(data(count))


def sizes_in_fit(growing, epochs, initial_epoch=0):
    """The sizes that train_step is given, by epoch."""
    model, seen, by_epoch = large(10), [], []
    own_step = model.train_step

    def train_step(batch):
        size = tf.shape(batch[0])[0]
        tf.numpy_function(lambda n: seen.append(int(n)), [size], [])
        return own_step(batch)

    model.train_step = train_step

    def end(epoch, logs):
        by_epoch.append(list(seen))
        seen.clear()

    callbacks = [growing, keras.callbacks.LambdaCallback(on_epoch_end=end)]
    model.fit(
        growing.dataset,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=callbacks,
        verbose=0,
    )
    assert int(model.optimizer.iterations) == sum(map(len, by_epoch))
    return by_epoch


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_fit_takes_the_sizes_of_the_schedule_also_in_mid_epoch():
    expected = [SCHEDULE.epoch(e, 200) for e in range(4)]
    assert sizes_in_fit(GrowingBatches(rows(), SCHEDULE, 200), 4) == expected


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_run_that_goes_on_takes_the_sizes_of_its_epoch():
    growing = GrowingBatches(rows(), SCHEDULE, 200)
    assert sizes_in_fit(growing, 4, initial_epoch=2) == [[100, 100], [100, 100]]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_schedule_by_updates_changes_in_mid_epoch_and_on_resume_where_it_should():
    schedule = BatchSizeSchedule([10, 40, 100], [7, 22], unit="update")
    expected = [schedule.epoch(e, 200) for e in range(5)]
    assert expected[0] == [10] * 7 + [40] * 3 and expected[3] == [40, 40, 100]
    assert sizes_in_fit(GrowingBatches(rows(), schedule, 200), 5) == expected
    assert sizes_in_fit(GrowingBatches(rows(), schedule, 200), 5, initial_epoch=3) == expected[3:]


def test_every_row_is_used_in_its_order():
    growing = GrowingBatches(rows(), SCHEDULE, 200)
    x = np.concatenate([batch[0] for batch in growing.dataset])
    assert len(x) == sum(SCHEDULE.epoch(0, 200))
    np.testing.assert_array_equal(x, data(200)[0][: len(x)])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_grown_run_equals_the_same_steps_by_hand():
    decay = WarmupStep(0.2, [20], 0.5)
    grown = grow_batch(decay, max_batch=20, batch=10, examples=100)
    x, y = data(100)
    growing = GrowingBatches(tf.data.Dataset.from_tensor_slices((x, y)), grown.batch_size, 100)
    model = large(5, keras.optimizers.SGD(grown.learning_rate, momentum=0.9))
    model.fit(growing.dataset, epochs=4, callbacks=[growing], verbose=0)
    by_hand = plain(keras.optimizers.SGD(0.2, momentum=0.9))
    for size in (10, 10, 20, 20):
        by_hand.fit(x, y, batch_size=size, shuffle=False, verbose=0)
    assert_same_weights(by_hand, model)


def test_what_fit_cannot_follow_is_refused():
    with pytest.raises(ValueError, match="shrinks: Keras's fit"):
        GrowingBatches(rows(), BatchSizeSchedule([20, 10], [1]), 200)
    growing = GrowingBatches(rows(), SCHEDULE, 200)
    with pytest.raises(ValueError, match="micro_batch_size=16 is larger than the smallest batch"):
        large(16).fit(growing.dataset, callbacks=[growing], verbose=0)
    with pytest.raises(ValueError, match="below the 4 workers"):
        GrowingBatches(rows(), BatchSizeSchedule([2, 8], [1]), 200, workers=4)
    with pytest.raises(ValueError, match="grows past the data set"):
        GrowingBatches(rows(), BatchSizeSchedule([2, 400], [1]), 200)


pytest.importorskip("horovod", reason="needs Horovod: python -m tf_lars.horovod.build")
job = workers.Job(2)


@job.check
def test_two_workers_grow_together_and_equal_one():
    import tf_lars.horovod as hvd

    schedule = BatchSizeSchedule([20, 40, 100], [0.5, 2])
    x, y = data(200)
    own = slice(hvd.rank(), None, 2)  # of every batch, each worker's share
    trained = []
    for count, mine in ((1, slice(None)), (2, own)):
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model = large(5, optimizer if count == 1 else hvd.DistributedOptimizer(optimizer))
        part = tf.data.Dataset.from_tensor_slices((x[mine], y[mine]))
        growing = GrowingBatches(part, schedule, 200, count)
        model.fit(growing.dataset, epochs=3, callbacks=[growing], verbose=0)
        trained.append(model)
    assert_same_weights(*trained)
    assert int(model.optimizer.iterations) == schedule.updates(3, 200)


@job.check
def test_two_workers_that_go_on_from_a_checkpoint_end_where_the_undisturbed_run_does():
    import tempfile

    import tf_lars.horovod as hvd

    decay = WarmupStep(0.2, [30, 44], 0.5)  # by updates of 10 rows: in the middle of epochs 1 and 2
    grown = grow_batch(decay, max_batch=40, batch=10, examples=200)
    x, y = (a[hvd.rank() :: 2] for a in data(200))

    def start():
        optimizer = keras.optimizers.SGD(grown.learning_rate, momentum=0.9)
        model = large(5, hvd.DistributedOptimizer(optimizer))
        growing = GrowingBatches(
            tf.data.Dataset.from_tensor_slices((x, y)), grown.batch_size, 200, 2
        )
        return model, growing, [growing, MomentumCorrection(), NoiseScale()]

    def train(run, epochs, first=0):
        model, growing, callbacks = run
        model.fit(
            growing.dataset, epochs=epochs, initial_epoch=first, callbacks=callbacks, verbose=0
        )

    straight, first, second = start(), start(), start()
    train(straight, 4)
    train(first, 2)
    path = tempfile.mkdtemp() + "/state.weights.h5"
    first[0].save_weights(path)
    second[0].optimizer.build(second[0].trainable_variables)
    second[0].load_weights(path)
    for old, new in zip(first[2][1:], second[2][1:], strict=True):
        new.set_state(old.get_state())
    train(second, 4, first=2)
    for a, b in zip(straight[0].weights, second[0].weights, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    assert straight[2][2].get_state() == second[2][2].get_state()
    assert int(second[0].optimizer.iterations) == grown.batch_size.updates(4, 200)
