"""Images from folders: which are seen when, what is cut out of them, and what is left out."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.jpegs import colour, image_folder, jpeg
from trainers.config import TrainConfig
from trainers.data import DATASETS
from trainers.data.decode import (
    CROPS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    evaluation_image,
    normalised,
    training_image,
)
from trainers.data.pipeline import evaluation_data, training_data
from trainers.data.sharding import SampleStream
from trainers.errors import ConfigError
from trainers.startup import Workers


def unchanged(images, labels, seed):
    return images, labels


def folder_data(root, **settings):
    settings = {"image_size": 24, "crop": "whole"} | settings
    return DATASETS["image_folder"](data_dir=str(root), **settings).prepare(Workers())


def numbers(images):
    """Which of the coloured images these are."""
    reds = np.asarray(images)[..., 0].mean((1, 2)) * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    return [round(red / 4) for red in reds]


def epoch(data, rank=0, size=1, batch=4, **settings):
    examples = data.examples("train")
    stream = SampleStream(examples, settings.pop("seed", 0))
    settings = {"steps": examples // batch} | settings
    return list(training_data(data, stream, batch, Workers(rank, size), unchanged, **settings))


def test_an_epoch_shows_every_image_once_over_all_workers_with_its_label(tmp_path):
    data = folder_data(image_folder(tmp_path))
    seen = {}
    for rank in (0, 1):
        for images, labels in epoch(data, rank, 2):
            assert images.shape == (2, 24, 24, 3)
            assert labels.shape == (2, 2)
            seen.update(zip(numbers(images), np.argmax(labels, 1), strict=True))
    assert seen == {number: int(number >= 6) for number in range(12)}


def test_a_run_that_goes_on_sees_what_the_undisturbed_one_sees(tmp_path):
    data = folder_data(image_folder(tmp_path), crop="inception")
    whole = epoch(data, steps=6)
    again = epoch(data, steps=6)
    rest = epoch(data, first_step=4, steps=2)
    for one, other in zip(whole + whole[4:], again + rest, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    other_seed = epoch(data, seed=1, steps=6)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(whole, other_seed, strict=True))


@pytest.mark.parametrize(("size", "batch"), [(1, 2), (1, 4), (2, 2), (3, 2)])
def test_evaluation_counts_every_image_exactly_once(tmp_path, size, batch):
    data = folder_data(image_folder(tmp_path, test=(4, 3)))
    counted = []
    for rank in range(size):
        for images, _, weights in evaluation_data(data, batch, Workers(rank, size)):
            counted += [n for n, w in zip(numbers(images), weights, strict=True) if w]
    assert sorted(counted) == list(range(12, 19))


@pytest.mark.parametrize("name", ["val", "validation"])
def test_the_test_images_may_lie_in_val(tmp_path, name):
    assert folder_data(image_folder(tmp_path, test_name=name)).examples("test") == 5


def test_evaluation_may_use_another_size(tmp_path):
    data = folder_data(image_folder(tmp_path), eval_image_size=30)
    images, _, _ = next(iter(evaluation_data(data, 2, Workers())))
    assert images.shape == (2, 30, 30, 3)


def test_png_and_gif_are_read_as_well(tmp_path):
    root = image_folder(tmp_path, train=(0, 1))
    for number, kind in ((1, "PNG"), (2, "GIF"), (3, "BMP")):
        file = root / "train" / "class0" / f"{number}.{kind.lower()}"
        file.write_bytes(jpeg((4 * number, 0, 0), kind=kind))
    (images, _), *_ = epoch(folder_data(root, crop="inception"), batch=4)
    assert sorted(numbers(images)) == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8\xff broken", "cut", "gone"])
def test_a_corrupt_image_is_named_and_replaced_by_the_next(tmp_path, damage, caplog):
    root = image_folder(tmp_path)
    data = folder_data(root)
    good = epoch(data)
    file = root / "train" / "class0" / "003.jpg"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:300] if damage == "cut" else damage)
    for _ in range(2):
        for (images, labels), (before, labels_before) in zip(epoch(data), good, strict=True):
            rows, rows_before = numbers(images), numbers(before)
            if 3 in rows_before:
                bad = rows_before.index(3)
                after = (bad + 1) % 4
                rows_before[bad] = rows_before[after]
                labels_before = labels_before.numpy()
                labels_before[bad] = labels_before[after]
            assert rows == rows_before
            np.testing.assert_array_equal(labels, labels_before)
    assert data.corrupt_images == [str(file)]


def test_a_corrupt_test_image_counts_for_nothing(tmp_path):
    root = image_folder(tmp_path)
    file = root / "test" / "class0" / "001.jpg"
    file.write_bytes(b"nonsense")
    data = folder_data(root)
    counted = [
        number
        for images, _, weights in evaluation_data(data, 2, Workers())
        for number, weight in zip(numbers(images), weights, strict=True)
        if weight
    ]
    assert sorted(counted) == [12, 14, 15, 16]
    assert data.corrupt_images == [str(file)]


def test_too_many_corrupt_images_end_the_run_and_the_last_is_named(tmp_path):
    root = image_folder(tmp_path)
    for index in range(3):
        (root / "train" / "class1" / f"00{index}.jpg").write_bytes(b"nonsense")
    with pytest.raises(tf.errors.OpError, match=r"3 images of image_folder.*class1/00\d.jpg"):
        epoch(folder_data(root, max_corrupt_images=2))


def test_the_images_can_be_decoded_where_tensorflow_has_a_single_thread(tmp_path):
    code = f"""
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
from tests.trainers.test_data_images import epoch, folder_data
print(len(epoch(folder_data({str(image_folder(tmp_path))!r}))))
"""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.split() == ["3"], result.stderr


def ramp(height, width):
    """An image whose red rises with x from 0 to 250 and whose green rises with y."""
    pixels = np.zeros((height, width, 3), np.float32)
    pixels[..., 0] = np.linspace(0, 250, width)
    pixels[..., 1] = np.linspace(0, 250, height)[:, None]
    return tf.io.encode_png(pixels.astype(np.uint8)), pixels


def window_of(image):
    """The window [x, y, width, height] in parts of the image that a picture of the ramp shows."""
    image = np.asarray(image, np.float64) / 250
    x, y = image[..., 0].mean((0,)), image[..., 1].mean((1,))
    return min(x), min(y), np.ptp(x), np.ptp(y)


def test_inception_windows_have_8_to_100_per_cent_of_the_area_and_a_bounded_aspect():
    data, _ = ramp(240, 300)
    crop = tf.function(lambda seed: training_image(data, seed, CROPS["inception"], 64))
    windows = np.array([window_of(crop(tf.constant([7, s]))) for s in range(300)])
    # resizing loses about a pixel of a window on each side
    area = windows[:, 2] * windows[:, 3]
    aspect = (windows[:, 2] * 300) / (windows[:, 3] * 240)
    assert 0.05 < area.min() < 0.15
    assert 0.8 < area.max() <= 1.0
    assert 0.72 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.38
    mirrored = sum(np.asarray(crop(tf.constant([7, s])))[0, 0, 0] > 125 for s in range(0, 300, 3))
    assert windows[:, 0].std() > 0.1
    assert 10 < mirrored < 90


def test_the_lars_crop_is_224_of_256_of_the_warped_image_at_every_place():
    data, _ = ramp(240, 300)
    crop = tf.function(lambda seed: training_image(data, seed, CROPS["lars"], 64))
    windows = np.array([window_of(crop(tf.constant([3, s]))) for s in range(200)])
    np.testing.assert_allclose(windows[:, 2:], 0.875, atol=0.03)
    assert windows[:, :2].min() < 0.02
    assert windows[:, :2].max() > 0.1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inception", (0.15, 0.0625, 0.7, 0.875)),
        ("lars", (0.0625, 0.0625, 0.875, 0.875)),
        ("whole", (0, 0, 1, 1)),
    ],
)
def test_evaluation_looks_at_the_middle(name, expected):
    data, _ = ramp(240, 300)
    window = window_of(evaluation_image(data, CROPS[name], 128))
    np.testing.assert_allclose(window, expected, atol=0.012)


def test_a_whole_image_of_the_right_size_is_served_as_it_is():
    data, pixels = ramp(32, 32)
    for image in (
        training_image(data, tf.constant([0, 1]), CROPS["whole"], 32),
        evaluation_image(data, CROPS["whole"], 32),
    ):
        np.testing.assert_array_equal(image, pixels.astype(np.uint8))


def test_normalised_images_have_imagenets_mean_and_deviation():
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    pixels = np.stack([mean, mean + std, mean - 2 * std]).astype("float32")[:, None, None]
    expected = np.broadcast_to(np.array([0, 1, -2.0])[:, None, None, None], (3, 1, 1, 3))
    np.testing.assert_allclose(normalised(pixels), expected, atol=1e-5)


def test_a_decoded_jpeg_agrees_with_another_decoder():
    from io import BytesIO

    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    data = BytesIO()
    Image.fromarray(noise).resize((64, 64)).save(data, "JPEG", quality=90)
    ours = evaluation_image(tf.constant(data.getvalue()), CROPS["whole"], 64)
    assert np.abs(np.asarray(ours) - np.asarray(Image.open(data))).max() <= 2


def test_the_names_of_the_crops_are_those_of_the_flag():
    (field,) = (f for f in TrainConfig.__dataclass_fields__.values() if f.name == "crop")
    assert set(field.metadata["choices"]) == set(CROPS)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root / "nowhere", "is not a folder: an image folder has train/CLASS/FILE"),
        (lambda root: root / "train", "holds class0, class1: an image folder has train/CLASS"),
        (lambda root: (root / "test" / "new").mkdir() or root, "does not have: new"),
        (lambda root: (root / "train" / "void").mkdir() or root, "void holds no image"),
        (lambda root: None, "needs --data_dir"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_the_reason(tmp_path, spoil, message):
    path = spoil(image_folder(tmp_path))
    with pytest.raises(ConfigError, match=message):
        DATASETS["image_folder"](data_dir=path and str(path)).prepare(Workers())


def test_the_colours_of_the_test_images_tell_them_apart():
    assert len({colour(n) for n in range(60)}) == 60
