"""Which update takes which examples, and where the epochs end."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.agreement import Agreement
from trainers.background import Background
from trainers.data.pipeline import growing_data
from trainers.data.sharding import SampleStream, worker_batches
from trainers.errors import ConfigError
from trainers.interval import Interval
from trainers.startup import Workers
from trainers.timetable import Timetable


@st.composite
def timetables(draw):
    examples = draw(st.integers(20, 200))
    epochs = draw(st.integers(1, 6))
    stages = draw(st.integers(1, min(epochs, 3)))
    first = draw(st.integers(1, 6))
    batches = [first * draw(st.integers(k, k + 1)) for k in range(1, stages + 1)]
    starts = draw(
        st.lists(
            st.integers(1, 2 * epochs - 1), min_size=stages - 1, max_size=stages - 1, unique=True
        )
    )
    return Timetable(examples, epochs, batches, (0, *(start / 2 for start in sorted(starts))))


@given(timetables(), st.data())
def test_stretches_from_any_update_on_join_up_with_what_came_before(timetable, data):
    update = data.draw(st.integers(0, timetable.updates))
    left = [stretch for stretch in timetable.left(update) if stretch.updates]
    assert sum(stretch.updates for stretch in left) == timetable.updates - update
    at, position = update, timetable.position(update)
    for stretch in left:
        assert (stretch.update, stretch.position) == (at, position)
        assert stretch.batch == timetable.batch(at)
        at, position = at + stretch.updates, position + stretch.updates * stretch.batch
    assert position == timetable.position(timetable.updates)


@given(timetables())
def test_every_update_belongs_to_the_epoch_that_ends_behind_it(timetable):
    assert timetable.epochs_done(0) == 0
    for update in range(timetable.updates):
        epoch = timetable.epochs_done(update)
        assert update < timetable.ends[epoch]
        assert epoch == 0 or update >= timetable.ends[epoch - 1]
    assert timetable.updates == timetable.ends[-1] == timetable.update_at(len(timetable.ends))


def test_a_batch_may_grow_in_mid_epoch():
    timetable = Timetable(100, 3, (10, 50), (0, 1.5))
    assert timetable.ends == (10, 16, 18)
    assert [timetable.batch(update) for update in (14, 15, 17)] == [10, 50, 50]
    assert (timetable.position(15), timetable.position(18)) == (150, 300)
    assert timetable.longest_epoch == 10


@pytest.mark.parametrize("size", [1, 2])
def test_the_order_of_the_examples_depends_neither_on_the_batch_nor_on_the_workers(size):
    timetable = Timetable(60, 2, (4, 12), (0, 0.6))
    by_rank = []
    for rank in range(size):
        parts = [
            itertools.islice(
                worker_batches(SampleStream(60, 5), s.batch, rank, size, s.update, s.position),
                s.updates,
            )
            for s in timetable.left(3)
        ]
        by_rank.append([rows for part in parts for _, rows in part])
    seen = np.concatenate([rows for step in zip(*by_rank, strict=True) for rows in step])
    np.testing.assert_array_equal(seen, SampleStream(60, 5).indices(12, 12 + len(seen)))


def test_batches_of_a_growing_run_hold_the_rows_of_their_updates():
    from trainers.data.digits import digits

    timetable = Timetable(1437, 1, (32, 64), (0, 0.5))
    data, stream = digits(), SampleStream(1437, 0)
    batches = growing_data(data, stream, timetable.left(20), Workers(1, 2), lambda x, y, _: (x, y))
    sizes = []
    for update, (images, _) in enumerate(batches, start=20):
        start, half = timetable.position(update), timetable.batch(update) // 2
        rows = SampleStream(1437, 0).indices(start + half, start + 2 * half)
        np.testing.assert_array_equal(images, data.train[0][rows])
        sizes.append(len(images))
    assert sizes == [16, 16] + [32] * 11


def test_the_shapes_of_a_growing_run_are_as_unknown_when_only_one_size_is_left():
    from trainers.data.digits import digits

    timetable = Timetable(1437, 2, (32, 64), (0, 1))
    for update in (0, timetable.ends[0]):
        left = timetable.left(update)
        batches = growing_data(
            digits(), SampleStream(1437, 0), left, Workers(), lambda x, y, _: (x, y)
        )
        assert batches.element_spec[0].shape.as_list() == [None, 8, 8, 1]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_several_workers_exchange_twice_a_second_whatever_an_update_takes():
    class Two(Workers):
        def sum(self, vector):
            return vector

    for seconds, steps in ((0.01, 50), (0.2, 2), (3.0, 1)):
        clock = Clock()
        agreement = Agreement(Two(0, 2), clock)
        exchanges = []
        for update in range(1, 200):
            clock.now += seconds
            if agreement.is_due(update):
                agreement.sums(update, [0.0])
                exchanges.append(update)
        gaps = {b - a for a, b in itertools.pairwise(exchanges[2:])}
        assert gaps <= {steps - 1, steps, steps + 1}


def test_one_worker_is_asked_after_every_update():
    agreement = Agreement(Workers())
    for update in range(1, 5):
        assert agreement.is_due(update)
        assert agreement.sums(update, [1.0, 2.0]) == [1.0, 2.0]


def test_work_in_the_background_is_done_in_turn_and_its_errors_come_back_once():
    done, background = [], Background()
    for number in range(20):
        background.start(done.append, number)
    background.wait()
    assert done == list(range(20)) and not background.failed
    background.start(lambda: 1 / 0)
    while not background.failed:
        pass
    with pytest.raises(ZeroDivisionError):
        background.wait()
    background.wait()


@pytest.mark.parametrize(
    ("text", "updates", "seconds"),
    [("500", 500, None), ("90s", None, 90), ("10m", None, 600), ("2h", None, 7200)],
)
def test_an_interval_is_in_updates_or_in_time(text, updates, seconds):
    assert Interval.parse("checkpoint_every", text) == Interval(updates, seconds)


@pytest.mark.parametrize("text", ["0", "-5", "1.5m", "10 minutes", "", "0s"])
def test_an_interval_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"--checkpoint_every takes a number of updates .* got"):
        Interval.parse("checkpoint_every", text)
