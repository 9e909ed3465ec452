"""Data sets that tensorflow-datasets prepares: ImageNet, CIFAR, MNIST and Fashion-MNIST."""

import functools
import pathlib

from trainers.data.arrays import ArrayDataSet
from trainers.data.preparing import Unprepared, prepare_once
from trainers.errors import ConfigError

_MNIST_FILES = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
    "t10k-labels-idx1-ubyte.gz from "
)

# What to download by hand on a machine without a network.
_DOWNLOADS = {
    "imagenet2012": "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
    "https://image-net.org/download-images (after registering)",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "mnist": f"{_MNIST_FILES}https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": _MNIST_FILES + "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}


def prepared_builder(name, data_dir, workers):
    """The builder of a data set whose files are there, downloaded and prepared if need be.

    Args:
        name: a name of tensorflow-datasets.
        data_dir: where prepared data sets lie; None for ~/tensorflow_datasets.
        workers: all of them call this function; one of a machine works.

    Raises:
        ConfigError: the data cannot be had; the message says what to put where.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    prepare_once(workers, builder.is_prepared, lambda: _prepare(builder))
    # A builder made before its files were there does not know them.
    return tfds.builder(name, data_dir=data_dir)


def _prepare(builder):
    import tensorflow_datasets as tfds

    downloads = pathlib.Path(builder.data_dir_root, "downloads")
    manual = downloads / "manual"
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        manual /= builder.name  # MNIST's files and Fashion-MNIST's have the same names
    try:
        manual.mkdir(parents=True, exist_ok=True)
        config = tfds.download.DownloadConfig(manual_dir=manual)
        builder.download_and_prepare(download_dir=downloads, download_config=config)
    except Exception as error:  # tfds, its downloader and the disk fail in many ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"--dataset={builder.name} is not in {builder.data_path} and could not be prepared "
            f"there ({reason}). Without a network, download {_DOWNLOADS[builder.name]} and put "
            f"the files into {manual}."
        ) from error


def _arrays(name, data_dir=None):
    """A data set of small images, as arrays in memory."""
    return Unprepared(functools.partial(_load_arrays, name, data_dir))


def _load_arrays(name, data_dir, workers):
    import tensorflow_datasets as tfds

    builder = prepared_builder(name, data_dir, workers)
    wanted = tfds.decode.PartialDecoding({"image": True, "label": True})
    whole = builder.as_dataset(batch_size=-1, decoders=wanted)
    arrays = {split: tfds.as_numpy(whole[split]) for split in ("train", "test")}
    train, test = ((s["image"], s["label"]) for s in arrays.values())
    return ArrayDataSet(
        name,
        builder.info.features["label"].num_classes,
        train,
        test,
        mean=train[0].mean((0, 1, 2)),
        std=train[0].std((0, 1, 2)),
    )


cifar10, cifar100, mnist, fashion_mnist = (
    functools.partial(_arrays, name) for name in ("cifar10", "cifar100", "mnist", "fashion_mnist")
)
