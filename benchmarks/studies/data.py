"""The studies' data: images in NHWC, split into training, validation and test."""

import dataclasses
import gzip
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """(images, labels) to train on, to choose settings by, and to judge with."""

    train: tuple
    validation: tuple
    test: tuple


def digits():
    """The 8×8 digits of the trainers: 1,077 to train on, 360 to choose by, 360 to judge with."""
    from sklearn.model_selection import train_test_split

    from trainers.data.digits import digits

    data = digits()
    x, y = data.train
    train_x, held_x, train_y, held_y = train_test_split(
        x, y, test_size=360, random_state=1, stratify=y
    )
    return Split((train_x, train_y), (held_x, held_y), data.test)


def flat_digits():
    """The digits with the trainers' split, 1,437 to train on and 360 to test, flat, in [0, 1]."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    parts = train_test_split(x, y, test_size=360, random_state=0, stratify=y)
    return parts[0], parts[2], parts[1], parts[3]


def mnist_subset(folder=None, train=4096, validation=2048):
    """The first 4,096 images of MNIST to train on, the next 2,048 to choose by, all 10,000 to test.

    Pixels have about zero mean and unit variance.
    """
    x, y, test_x, test_y = mnist(folder)

    def images(flat):
        return ((flat - 0.1307) / 0.3081).reshape(-1, 28, 28, 1)

    def part(begin, count):
        return images(x[begin : begin + count]), y[begin : begin + count]

    return Split(part(0, train), part(train, validation), (images(test_x), test_y))


def mnist(folder=None):
    """MNIST, flat and in [0, 1]: from its four gzipped idx files, or by tensorflow-datasets.

    tensorflow-datasets has the same images in another order.
    """
    if folder is None:
        return _mnist_of_tfds()
    folder = pathlib.Path(folder)

    def read(name, offset):
        with gzip.open(folder / f"{name}.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    found = []
    for part in ("train", "t10k"):
        x = read(f"{part}-images-idx3-ubyte", 16).reshape(-1, 784)
        found += [_scaled(x), read(f"{part}-labels-idx1-ubyte", 8).astype("int64")]
    return found


def _mnist_of_tfds():
    import tensorflow_datasets as tfds

    found = []
    for part in ("train", "test"):
        parts = list(tfds.as_numpy(tfds.load("mnist", split=part).batch(1000)))
        x, y = (np.concatenate([rows[key] for rows in parts]) for key in ("image", "label"))
        found += [_scaled(x.reshape(-1, 784)), y.astype("int64")]
    return found


def _scaled(pixels):
    return (pixels / 255).astype("float32")
