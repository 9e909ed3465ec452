"""MixUp, CutMix and RandAugment, drawn from a seed."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.data.mixing import Mixing, RandAugment

LABELS = np.eye(8, dtype="float32")
# each image is of one value, that of its label
IMAGES = np.arange(8, dtype="float32")[:, None, None, None] * np.ones((1, 64, 64, 3), "float32")
MIXUP, CUTMIX, EITHER = {"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}


def mix(kind, seed, images=IMAGES):
    return tuple(np.asarray(x) for x in Mixing(**kind)(images, LABELS, tf.constant(seed)))


@pytest.mark.parametrize(("kind", "tolerance"), [(MIXUP, 1e-3), (CUTMIX, 0.25)])
def test_labels_are_mixed_as_the_images_are(kind, tolerance):
    mixed = 0
    for seed in range(8):
        images, labels = mix(kind, [3, seed])
        np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(images.mean((1, 2, 3)), labels @ np.arange(8), atol=tolerance)
        mixed += (labels.max(1) < 0.99).sum()
    assert mixed > 8


def test_mixup_blends_and_cutmix_pastes():
    blended, _ = mix(MIXUP, [3, 4])
    assert np.ptp(blended, axis=(1, 2, 3)).max() < 1e-5
    pasted = np.stack([mix(CUTMIX, [3, seed])[0] for seed in range(8)])
    np.testing.assert_array_equal(pasted, np.round(pasted))
    assert np.ptp(pasted, axis=(2, 3, 4)).max() >= 1


def test_with_both_every_batch_is_mixed_by_one_of_them():
    expected = dict.fromkeys(("mixup", "cutmix"), 0)
    mixing = Mixing(**EITHER)
    for seed in range(12):
        labels = mixing(IMAGES, LABELS, tf.constant([0, seed]))[1].numpy()
        alone = {"mixup": mix(MIXUP, [0, seed]), "cutmix": mix(CUTMIX, [0, seed])}
        for kind, (_, its_labels) in alone.items():
            expected[kind] += np.allclose(labels, its_labels, atol=1e-6)
    assert sum(expected.values()) == 12
    assert min(expected.values()) >= 2


@pytest.mark.parametrize("kind", [MIXUP, CUTMIX, EITHER])
def test_the_same_seed_mixes_the_same_also_in_a_graph(kind):
    mixing = Mixing(**kind)
    mixed = tf.function(lambda seed: mixing(IMAGES, LABELS, seed))
    first, again, other = (mixed(tf.constant(seed)) for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_allclose(first[1], mix(kind, [1, 2])[1], atol=1e-6)
    assert not np.array_equal(first[1], other[1])


def test_no_mixing_leaves_a_batch_alone():
    images, labels = Mixing()(IMAGES, LABELS, [1, 2])
    assert images is IMAGES
    assert labels is LABELS


def test_rand_augment_changes_images_by_the_seed_alone_and_in_bounds():
    noise = np.random.default_rng(0).uniform(0, 255, (20, 24, 3)).astype("float32")
    augment = tf.function(RandAugment(0.5))
    results = [np.asarray(augment(noise, tf.constant([5, s]))) for s in range(40)]
    np.testing.assert_array_equal(results[7], augment(noise, tf.constant([5, 7])))
    assert {result.shape for result in results} == {noise.shape}
    assert min(r.min() for r in results) >= 0
    assert max(r.max() for r in results) <= 255.001
    assert len({result.tobytes() for result in results}) > 30


@pytest.mark.parametrize("index", range(11))
def test_every_change_of_rand_augment_does_something(index):
    augment = RandAugment(1.0, operations=1)
    augment.layers = [augment.layers[index]]
    ramp = np.linspace(20, 200, 20 * 24 * 3).reshape(20, 24, 3).astype("float32")
    ramp *= np.array([1.0, 0.5, 0.2], "float32")
    results = [np.asarray(augment(ramp, tf.constant([0, seed]))) for seed in range(4)]
    assert max(np.abs(result - ramp).max() for result in results) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0}, r"strength must be in \(0, 1\]; got 0"),
        ({"strength": 1.5}, "got 1.5"),
        ({"strength": 0.5, "operations": 0}, "operations must be at least 1; got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandAugment(**arguments)
