"""Batches that grow: the sizes, the noise scale that stays, and the refusals."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_lars.schedules.batch_size import (
    BatchSizeSchedule,
    StagedLearningRate,
    batch_for_momentum,
    grow_batch,
    noise_scale,
)
from tf_lars.schedules.learning_rate import WarmupCosine, WarmupStep


def test_a_change_in_mid_epoch_uses_every_row_that_fills_a_batch():
    schedule = BatchSizeSchedule([10, 40, 100], [0.5, 2])
    assert schedule.epoch(0, 200) == [10] * 10 + [40] * 2
    assert schedule.epoch(1, 200) == [40] * 5
    assert schedule.epoch(2, 200) == [100, 100]
    assert schedule.updates(3, 200) == 12 + 5 + 2
    assert schedule.update_boundaries(200) == [10, 17]


def test_boundaries_by_update_count_updates():
    schedule = BatchSizeSchedule([10, 20], [15], unit="update")
    assert schedule.epoch(0, 100) == [10] * 10
    assert schedule.epoch(1, 100) == [10] * 5 + [20] * 2
    assert schedule.epoch(2, 100) == [20] * 5
    assert schedule.updates(3, 100) == 22


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.lists(st.integers(1, 30), min_size=3, max_size=3, unique=True),
    st.integers(60, 200),
)
def test_boundaries_by_epoch_and_by_update_agree(batches, tenths, examples):
    tenths = sorted(tenths)[: len(batches) - 1]
    boundaries = [tenth / 10 for tenth in tenths]
    by_epoch = BatchSizeSchedule(batches, boundaries)
    done, found = 0, []
    for epoch in range(6):
        sizes = by_epoch.epoch(epoch, examples)
        assert sum(sizes) <= examples
        row = 0
        for size in sizes:
            passed = sum((epoch * examples + row) * 10 >= tenth * examples for tenth in tenths)
            assert size == batches[passed]
            while len(found) < passed:
                found.append(done)
            row, done = row + size, done + 1
    assert by_epoch.update_boundaries(examples) == found
    assert by_epoch.updates(6, examples) == done


@settings(max_examples=100, deadline=None)
@given(
    rate=st.floats(1e-3, 10),
    factor=st.sampled_from([0.5, 0.2, 0.1, 0.3]),
    growth=st.sampled_from([None, 2, 3, 5]),
    batch=st.integers(2, 64),
    stages=st.integers(1, 4),
    cap=st.integers(64, 2000),
    multiple=st.sampled_from([1, 2, 8]),
    momentum=st.sampled_from([0.0, 0.9, 0.98]),
)
def test_the_noise_scale_is_that_of_the_original_in_every_stage(
    rate, factor, growth, batch, stages, cap, multiple, momentum
):
    examples, per_epoch = 2000, 2000 // batch
    decay = WarmupStep(rate, [per_epoch * (i + 1) for i in range(stages)], factor)
    grown = grow_batch(decay, growth, cap, batch=batch, examples=examples, multiple_of=multiple)
    stage_batches, rates = grown.batch_size.batches, grown.learning_rate.rates
    for stage in range(stages + 1):
        original = noise_scale(rate * factor**stage, batch, examples, momentum)
        ours = noise_scale(rates[stage], stage_batches[stage], examples, momentum)
        assert ours == pytest.approx(original, rel=1e-12)
    assert list(stage_batches) == sorted(stage_batches)
    assert max(stage_batches) <= cap
    # The stages begin where the original's did, counted in epochs.
    for stage in range(stages + 1):
        assert grown.batch_size.epoch(stage, examples)[0] == stage_batches[stage]


def test_smiths_numbers():
    """WRN-16-4: a factor of 5, from 128, capped at 5,120; the rest falls on the rate."""
    per_epoch = 50000 // 128
    decay = WarmupStep(0.1, [60 * per_epoch, 120 * per_epoch, 160 * per_epoch], 0.2)
    grown = grow_batch(decay, 5, 5120, batch=128, examples=50000)
    assert grown.batch_size.batches == (128, 640, 3200, 5120)
    assert grown.learning_rate.rates == pytest.approx((0.1, 0.1, 0.1, 0.1 * 0.2 * 1.6))
    assert grown.batch_size.boundaries == (60, 120, 160)
    decayed, fewer = 200 * per_epoch, grown.batch_size.updates(200, 50000)
    assert 28_000 < fewer < 30_000 < 0.4 * decayed
    assert batch_for_momentum(640, 0.9, 0.98) == 3200


def test_the_warm_up_stays():
    decay = WarmupStep(1.0, [40], 0.5, warmup_steps=10, start_learning_rate=0.1)
    rate = grow_batch(decay, batch=10, examples=100, max_batch=20).learning_rate
    for step in range(40):
        assert float(rate(step)) == pytest.approx(float(decay(step)), rel=1e-6)
    assert float(rate(40)) == pytest.approx(1.0)


def test_a_staged_rate_is_serialisable():
    schedule = StagedLearningRate([1.0, 0.5], [10], 4, 0.1)
    copied = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    for step in (0, 3, 4, 9, 10, 100):
        assert float(copied(step)) == float(schedule(step))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0],), "at least 1"),
        (([8.0],), "whole numbers"),
        (([8, 16],), "one size more"),
        (([8, 16], [0]), "positive and rising"),
        (([8, 16, 32], [2, 1]), "positive and rising"),
        (([8, 16], [1], "step"), "unit='step' must be one of 'epoch', 'update'"),
    ],
)
def test_bad_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchSizeSchedule(*arguments)


@pytest.mark.parametrize(
    ("batches", "examples", "workers", "message"),
    [
        ([8, 2], 100, 4, "shrinks to 2, below the 4 workers"),
        ([8, 18], 100, 4, "18 is not divisible by 4 workers"),
        ([8, 128], 100, 4, "grows past the data set: 128 of 100 examples"),
    ],
)
def test_sizes_that_the_workers_or_the_data_cannot_give_are_refused(
    batches, examples, workers, message
):
    with pytest.raises(ValueError, match=message):
        BatchSizeSchedule(batches, [1]).check(examples, workers)


def test_bad_growth_is_refused():
    step = WarmupStep(1.0, [10], 0.5)
    with pytest.raises(ValueError, match="must be a WarmupStep"):
        grow_batch(WarmupCosine(1.0, 10), batch=8, examples=100)
    with pytest.raises(ValueError, match=r"factor=0\.5 must be above 1"):
        grow_batch(step, 0.5, 16, batch=8, examples=100)
    with pytest.raises(ValueError, match="max_batch=200 must be between"):
        grow_batch(step, 2, 200, batch=8, examples=100)
    for arguments, name in (((0, 0.9, 0.9), "batch"), ((8, 1.0, 0.9), "momentum")):
        with pytest.raises(ValueError, match=name):
            batch_for_momentum(*arguments)
    for arguments, name in (
        (([1.0, 0.5],), "rates"),
        (([1.0, 0.5], [0]), "boundaries"),
        (([1.0, 0.5], [5], 6), "warmup_steps"),
    ):
        with pytest.raises(ValueError, match=name):
            StagedLearningRate(*arguments)
