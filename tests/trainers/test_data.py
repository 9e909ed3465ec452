"""Who sees which example when."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.augment import random_flip, random_shift
from trainers.data.digits import digits
from trainers.data.pipeline import evaluation_data, training_data
from trainers.data.sharding import SampleStream, evaluation_batches, worker_batches
from trainers.startup import Workers

sizes = st.integers(1, 6)


def parts(examples, global_batch, size, steps, first=0, seed=0):
    """The workers' parts [step][rank] of each global batch."""
    by_rank = [
        itertools.islice(
            worker_batches(SampleStream(examples, seed), global_batch, rank, size, first), steps
        )
        for rank in range(size)
    ]
    return list(zip(*by_rank, strict=True))


@given(st.integers(1, 200), st.integers(1, 40), sizes, st.integers(1, 4))
def test_the_workers_parts_are_disjoint_and_together_each_pass_is_whole(
    examples, local, size, passes
):
    global_batch = local * size
    steps = -(-passes * examples // global_batch)
    seen = np.concatenate(
        [part for step in parts(examples, global_batch, size, steps) for _, part in step]
    )
    for p in range(passes):
        one_pass = seen[p * examples : (p + 1) * examples]
        assert sorted(one_pass) == list(range(examples))


@given(st.integers(1, 100), st.integers(1, 20), sizes)
def test_the_global_batches_do_not_depend_on_the_number_of_workers(examples, local, size):
    alone = parts(examples, local * size, 1, 3)
    shared = parts(examples, local * size, size, 3)
    for one, several in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one[0][1], np.concatenate([part for _, part in several]))


@given(st.integers(1, 100), st.integers(1, 20), sizes, st.integers(0, 30))
def test_a_run_that_goes_on_sees_what_it_would_have_seen(examples, local, size, first):
    whole = parts(examples, local * size, size, first + 2)[first:]
    resumed = parts(examples, local * size, size, 2, first=first)
    for ours, theirs in zip(whole, resumed, strict=True):
        for (number, part), (other_number, other) in zip(ours, theirs, strict=True):
            assert number == other_number
            np.testing.assert_array_equal(part, other)


def test_passes_and_seeds_shuffle_differently():
    stream = SampleStream(50, seed=0)
    first, second = stream.indices(0, 50), stream.indices(50, 100)
    assert (first != second).any()
    assert (first != SampleStream(50, seed=1).indices(0, 50)).any()


@given(st.integers(1, 300), st.integers(1, 64), sizes)
def test_evaluation_sees_every_example_once_in_equally_many_batches(examples, batch, size):
    shares = [evaluation_batches(examples, batch, rank, size) for rank in range(size)]
    shapes = {tuple(rows.shape for rows, _ in share) for share in shares}
    assert len(shapes) == 1
    assert all(shape[0] <= batch for shape in next(iter(shapes)))
    counted = np.concatenate([rows[w > 0] for share in shares for rows, w in share])
    assert sorted(counted) == list(range(examples))
    for share in shares:
        for rows, weights in share:
            assert rows.min() >= 0 and rows.max() < examples
            assert set(weights) <= {0.0, 1.0}


def test_the_digits_are_split_stratified_and_always_alike():
    data, again = digits(), digits()
    assert data.image_shape == (8, 8, 1)
    assert (data.examples("train"), data.examples("test")) == (1437, 360)
    np.testing.assert_array_equal(data.test[0], again.test[0])
    counts = np.bincount(data.test[1])
    assert counts.min() >= 34 and counts.max() <= 37
    images = {image.tobytes() for image in data.train[0]}
    assert not any(image.tobytes() in images for image in data.test[0])
    assert abs(data.train[0].mean()) < 0.05 and abs(data.train[0].std() - 1) < 0.05


def test_batches_hold_the_examples_of_their_indices():
    data, workers = digits(), Workers(rank=1, size=2)
    stream = SampleStream(1437, 3)
    batches = training_data(data, stream, 64, workers, _unchanged, steps=2)
    expected = worker_batches(SampleStream(1437, 3), 64, 1, 2)
    for (images, labels), (_, rows) in zip(batches, expected, strict=False):
        np.testing.assert_array_equal(images, data.train[0][rows])
        np.testing.assert_array_equal(np.argmax(labels, -1), data.train[1][rows])
        np.testing.assert_array_equal(np.sum(labels, -1), np.ones(32))


def test_evaluation_batches_carry_their_weights():
    total = sum(float(np.sum(w)) for _, _, w in evaluation_data(digits(), 100, Workers(2, 7)))
    assert total == len(range(2, 360, 7))


def images(count=64):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("pixels", [1, 3])
def test_a_shift_moves_each_image_and_repeats_its_border(pixels):
    originals = images()
    found = set()
    for before, after in zip(originals, random_shift(originals, pixels, (1, 2)), strict=True):
        padded = np.pad(before, [(pixels, pixels), (pixels, pixels), (0, 0)], mode="edge")
        offsets = itertools.product(range(2 * pixels + 1), repeat=2)
        matching = [
            (y, x) for y, x in offsets if np.array_equal(after, padded[y : y + 8, x : x + 8])
        ]
        assert len(matching) == 1
        found.add(matching[0])
    assert len(found) > pixels * 4


def test_no_shift_changes_nothing():
    np.testing.assert_array_equal(random_shift(images(), 0, (1, 2)), images())


def test_a_flip_mirrors_about_half_of_the_images():
    originals = images(200)
    flipped = 0
    for before, after in zip(originals, random_flip(originals, (1, 2)), strict=True):
        assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])
        flipped += np.array_equal(after, before[:, ::-1])
    assert 70 < flipped < 130


def test_the_same_seed_draws_the_same_and_another_does_not():
    np.testing.assert_array_equal(
        random_shift(images(), 1, (1, 2)), random_shift(images(), 1, (1, 2))
    )
    assert np.any(random_shift(images(), 1, (1, 2)) != random_shift(images(), 1, (1, 3)))


def _unchanged(images, labels, seed):
    return images, labels
