"""Runs that take seconds: sixty small images and a network of eight layers."""

import functools
import time

import numpy as np
import pytest

from trainers.config import TrainConfig
from trainers.data.arrays import ArrayDataSet
from trainers.models import MODELS
from trainers.models.resnet_cifar import resnet_cifar
from trainers.startup import Workers

SETTINGS = {
    "dataset": "digits",
    "model": "resnet8",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "global_batch_size": 20,
    "epochs": 4,
    "progress": "none",
}


def stripes(examples=60, test_examples=25, seed=0):
    """Images of 8×8 with a bright row, whose number is the class, in noise."""
    rng = np.random.default_rng(seed)

    def draw(count):
        labels = np.arange(count) % 4
        images = rng.normal(size=(count, 8, 8, 1)).astype("float32")
        images[np.arange(count), 2 * labels] += 2.0
        return images, labels

    return ArrayDataSet("stripes", 4, draw(examples), draw(test_examples))


@pytest.fixture
def small_model(monkeypatch):
    """Makes the network of eight layers known as resnet8."""
    monkeypatch.setitem(MODELS, "resnet8", functools.partial(resnet_cifar, 8))


def config(**changes):
    return TrainConfig(**(SETTINGS | changes))


def train(run_dir, **changes):
    """Trains on the stripes in this process, as one worker; returns the summary."""
    from trainers import loop

    return loop.train(config(run_dir=str(run_dir), **changes), stripes(), Workers(), time.time())
