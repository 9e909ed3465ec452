"""Runs that take a second or two: sixty small images and a network of one convolution."""

import time

import keras
import numpy as np

from trainers.config import TrainConfig
from trainers.data.arrays import ArrayDataSet
from trainers.startup import Workers

SETTINGS = {
    "dataset": "digits",
    "model": "tiny",
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


def tiny_network(image_shape, classes):
    """Convolution, BatchNorm, dropout and a dense layer."""
    layers = [
        keras.Input(image_shape),
        keras.layers.Conv2D(4, 3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Dropout(0.1),
        keras.layers.Flatten(),
        keras.layers.Dense(classes),
    ]
    return keras.Sequential(layers)


def config(**changes):
    return TrainConfig(**(SETTINGS | changes))


def train(run_dir, **changes):
    """Trains on the stripes in this process, as one worker; returns the summary."""
    from trainers import loop

    return loop.train(config(run_dir=str(run_dir), **changes), stripes(), Workers(), time.time())
