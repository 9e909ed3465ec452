"""ImageNet as tensorflow-datasets itself prepares it, from small tars; records at any place."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.jpegs import imagenet_tars
from tests.trainers.test_data_images import numbers, unchanged
from trainers.data import DATASETS
from trainers.data.pipeline import evaluation_data, training_data
from trainers.data.records import RecordSource, index_records
from trainers.data.sharding import SampleStream
from trainers.errors import ConfigError
from trainers.startup import Workers


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A --data_dir with the two tars where the error message says to put them."""
    folder = tmp_path_factory.mktemp("imagenet")
    imagenet_tars(folder / "downloads" / "manual")
    load(folder)
    return folder


def load(data_dir, **settings):
    settings = {"image_size": 24, "crop": "whole"} | settings
    return DATASETS["imagenet2012"](data_dir=str(data_dir), **settings).prepare(Workers())


def test_imagenet_is_prepared_from_its_tars(data_dir):
    data = load(data_dir)
    assert (data.examples("train"), data.examples("test")) == (12, 7)
    assert (data.classes, data.image_shape) == (1000, (24, 24, 3))


def test_an_epoch_of_imagenet_shows_every_image_once_over_all_workers(data_dir):
    data = load(data_dir)
    seen = {}
    for rank in range(3):
        stream = SampleStream(12, 5)
        for images, labels in training_data(data, stream, 6, Workers(rank, 3), unchanged, 0, 2):
            seen.update(zip(numbers(images), np.argmax(labels, 1), strict=True))
    # four images of each of the first three classes of the list: n01440764, n01443537, n01484850
    assert seen == {number: number // 4 for number in range(12)}


def test_evaluation_on_imagenet_counts_every_image_once(data_dir):
    data = load(data_dir, eval_image_size=28)
    counted = []
    for rank in range(2):
        for images, _, weights in evaluation_data(data, 2, Workers(rank, 2)):
            assert images.shape == (2, 28, 28, 3)
            counted += [n for n, w in zip(numbers(images), weights, strict=True) if w]
    assert sorted(counted) == list(range(31, 38))


def test_the_augmented_imagenet_is_the_same_for_the_same_seed(data_dir):
    data = load(data_dir, crop="inception")
    runs = [
        [
            images.numpy()
            for images, _ in training_data(
                data, SampleStream(12, 1), 4, Workers(1, 2), unchanged, start, 4 - start
            )
        ]
        for start in (0, 2)
    ]
    assert not np.array_equal(runs[0][0], runs[0][3])
    np.testing.assert_array_equal(runs[0][2:], runs[1])


def test_a_data_set_that_is_prepared_needs_no_tars(data_dir, tmp_path):
    (tmp_path / "imagenet2012").symlink_to(data_dir / "imagenet2012")
    assert load(tmp_path).examples("train") == 12
    assert not (tmp_path / "downloads").exists()


def test_without_the_tars_the_message_says_what_to_put_where(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    with pytest.raises(ConfigError, match=r"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=f"put the files into {manual}"):
        load(tmp_path)
    assert manual.is_dir()


def test_imagenet_without_its_validation_tar_is_refused(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    imagenet_tars(manual)
    (manual / "ILSVRC2012_img_val.tar").unlink()
    with pytest.raises(ConfigError, match="val"):
        load(tmp_path)


def write_records(file, values):
    with tf.io.TFRecordWriter(str(file)) as writer:
        for value in values:
            writer.write(value)
    return str(file)


def test_records_are_found_in_any_order(tmp_path):
    values = [[b"a" * n for n in (5, 0, 7)], [], [b"bcd"]]
    files = [write_records(tmp_path / f"{i}.tfrecord", v) for i, v in enumerate(values)]
    source = RecordSource(files, index_records(files, tmp_path / "places.npz"))
    assert len(source) == 4
    assert list(source._read(np.array([3, 0, 2, 1]))) == [b"bcd", b"aaaaa", b"aaaaaaa", b""]


def test_the_places_are_looked_up_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    files = [write_records(tmp_path / "0.tfrecord", [b"one", b"two"])]
    cache = tmp_path / "places.npz"
    places = index_records(files, cache)
    with monkeypatch.context() as patch:
        patch.setattr("trainers.data.records._scan", None)
        np.testing.assert_array_equal(index_records(files, cache), places)
    write_records(files[0], [b"one", b"two", b"three"])
    assert len(index_records(files, cache)) == 3


def test_places_that_cannot_be_kept_are_looked_up_all_the_same(tmp_path):
    files = [write_records(tmp_path / "0.tfrecord", [b"one", b"two"])]
    assert len(index_records(files, tmp_path / "no such folder" / "places.npz")) == 2


@pytest.mark.parametrize("lost", [1, 14, 20])
def test_a_shard_that_was_cut_is_named(tmp_path, lost):
    file = tmp_path / "0.tfrecord"
    write_records(file, [b"one", b"two"])
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(ConfigError, match=r"0\.tfrecord ends within a record"):
        index_records([str(file)], tmp_path / "places.npz")


def test_a_corrupt_record_is_named_by_its_shard_or_its_file(tmp_path):
    def example(name, image):
        features = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
            "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
        }
        message = tf.train.Example(features=tf.train.Features(feature=features))
        return message.SerializeToString()

    file = write_records(tmp_path / "0.tfrecord", [example(b"n1_2.JPEG", b"bad"), b"\xff\xff\xff"])
    source = RecordSource([file], index_records([file], tmp_path / "places.npz"))
    assert source.file_name(0) == f"n1_2.JPEG (record at byte 12 of {file})"
    assert source.file_name(1).startswith("record at byte ")


def test_more_shards_than_the_system_lets_be_open_are_refused(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, 1000))
    with pytest.raises(ConfigError, match=r"1112 open files and the system allows 1000.*ulimit"):
        RecordSource(["x"] * 600, np.zeros([0, 3], np.int64))
