"""Small data sets of tensorflow-datasets, noise, and who prepares while others wait."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.trainers.test_data_images import epoch
from trainers.config import TrainConfig
from trainers.data import DATASETS
from trainers.data.pipeline import evaluation_data
from trainers.data.preparing import prepare_once
from trainers.errors import ConfigError
from trainers.startup import Workers


def store(name, data_dir, examples=(12, 6), shape=(32, 32, 3)):
    """Writes a small data set of that name where tensorflow-datasets looks for the prepared one."""
    builder = tfds.builder(name, data_dir=str(data_dir))
    rng = np.random.default_rng(0)
    features = {key: builder.info.features[key] for key in ("image", "label")}
    classes = features["label"].num_classes
    arrays = {
        split: {
            "image": rng.integers(0, 255, (count, *shape)).astype(np.uint8),
            "label": rng.integers(0, classes, count),
        }
        for split, count in zip(("train", "test"), examples, strict=True)
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=str(builder.version),
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices(values) for split, values in arrays.items()
        },
        data_dir=str(data_dir),
        disable_shuffling=True,
    )
    return arrays


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("cifar100", (32, 32, 3), 100),
        ("mnist", (28, 28, 1), 10),
        ("fashion_mnist", (28, 28, 1), 10),
    ],
)
def test_a_small_data_set_is_served_normalised_from_where_it_was_prepared(
    tmp_path, name, shape, classes
):
    arrays = store(name, tmp_path, shape=shape)
    data = DATASETS[name](data_dir=str(tmp_path)).prepare(Workers())
    assert (data.image_shape, data.classes) == (shape, classes)
    assert (data.examples("train"), data.examples("test")) == (12, 6)
    train = arrays["train"]["image"].astype("float64")
    mean, std = train.mean((0, 1, 2)), train.std((0, 1, 2))
    images, labels, _ = next(iter(evaluation_data(data, 6, Workers())))
    np.testing.assert_allclose(images, (arrays["test"]["image"] - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(np.argmax(labels, 1), arrays["test"]["label"])
    shown = np.concatenate([images for images, _ in epoch(data)])
    np.testing.assert_allclose(shown.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(shown.std((0, 1, 2)), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("mnist", "t10k-images-idx3-ubyte.gz"),
        ("fashion_mnist", "ubyte"),
    ],
)
def test_what_cannot_be_downloaded_is_named_with_the_place_to_put_it(
    tmp_path, monkeypatch, name, file
):
    def no_network(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(
        "tensorflow_datasets.core.download.downloader._Downloader.download", no_network
    )
    with pytest.raises(ConfigError) as caught:
        DATASETS[name](data_dir=str(tmp_path)).prepare(Workers())
    message = str(caught.value)
    assert "no route to host" in message
    assert file in message
    assert str(tmp_path / "downloads" / "manual" / name) in message
    assert f"--dataset={name}" in message


class Threads:
    """Workers that are threads, on machines of equal size; their sums meet at a barrier."""

    def __init__(self, ranks, machines):
        self.barrier = threading.Barrier(ranks)
        self.values = [None] * ranks
        self.local_size = ranks // machines

    def run(self, function):
        """What `function` gives, or the ConfigError it raises, for each worker."""
        results = [None] * len(self.values)

        def call(rank):
            try:
                results[rank] = function(Thread(rank, self))
            except ConfigError as error:
                results[rank] = error

        threads = [threading.Thread(target=call, args=[rank]) for rank in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        return results


class Thread:
    def __init__(self, rank, threads):
        self.rank, self.local_rank = rank, rank % threads.local_size
        self.threads = threads

    def sum(self, vector):
        self.threads.values[self.rank] = vector
        self.threads.barrier.wait(20)
        total = np.sum(self.threads.values, 0)
        self.threads.barrier.wait(20)
        return total


@pytest.mark.parametrize(("shared", "preparers"), [(True, [0]), (False, [0, 2])])
def test_one_worker_of_each_machine_prepares_while_the_others_wait(shared, preparers):
    done, log = set(), []

    def work(worker):
        machine = 0 if shared else worker.rank // 2

        def prepare():
            log.append(worker.rank)
            done.add(machine)

        prepare_once(worker, lambda: machine in done, prepare)
        return machine in done

    assert all(Threads(4, machines=2).run(work))
    assert sorted(log) == preparers


def test_all_workers_stop_when_one_cannot_prepare():
    def work(worker):
        def prepare():
            raise ConfigError("the disk is full")

        prepare_once(worker, lambda: worker.rank == 0, prepare)

    first, second, third, fourth = map(str, Threads(4, machines=2).run(work))
    assert third == "the disk is full"
    assert {first, second, fourth} == {"another worker could not prepare the data set."}


def test_noise_comes_in_the_size_that_is_asked_for():
    options = {"image_size": 20, "eval_image_size": 28, "synthetic_classes": 7}
    data = DATASETS["synthetic"](**options, synthetic_examples=40).prepare(Workers())
    assert (data.examples("train"), data.examples("test"), data.classes) == (40, 2, 7)
    batches = epoch(data)
    assert len(batches) == 10
    assert all(images.shape == (4, 20, 20, 3) for images, _ in batches)
    labels = np.concatenate([np.argmax(labels, 1) for _, labels in batches])
    np.testing.assert_array_equal(np.sort(labels), np.sort(np.arange(40) % 7))
    images, _, weights = next(iter(evaluation_data(data, 2, Workers())))
    assert images.shape == (2, 28, 28, 3)
    assert float(np.sum(weights)) == 2


def config(**options):
    required = {"global_batch_size": 8, "model": "resnet18", "optimizer": "sgd", "epochs": 1}
    return TrainConfig(**required | {"learning_rate": 0.1, "dataset": "synthetic"} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "digits", "image_size": 32}, "--image_size=32 has no effect with --dataset="),
        (
            {"dataset": "cifar10", "crop": "lars"},
            "--crop=lars has no effect with --dataset=cifar10",
        ),
        ({"crop": "center", "dataset": "imagenet2012"}, "--crop=center is unknown"),
        ({"dataset": "imagenet"}, "--dataset=imagenet is unknown. Did you mean imagenet2012"),
        ({"image_size": 0}, "--image_size must be at least 1; got 0"),
        ({"rand_augment": 2.0, "dataset": "image_folder"}, "--rand_augment must be at most 1"),
        ({"model": "keras:ResNet5OV2"}, "Did you mean keras:ResNet50V2"),
    ],
)
def test_settings_of_the_data_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        config(**options)


def test_settings_of_the_data_reach_it():
    settings = config(image_size=16, synthetic_examples=20)
    make = DATASETS["synthetic"]
    assert make(**settings.options_for(make)).prepare(Workers()).image_shape == (16, 16, 3)
