"""`trainers.train` for tests that do harm, with a network that any number of workers train alike.

It has no BatchNorm, which sees a worker's part of the batch, and no dropout, whose masks differ;
nor may the flags ask for random changes of the images. Each update is written down and followed by
a pause, so that a test can do harm at a given one.
"""

import os
import pathlib
import signal
import time

import keras

from trainers import position, train
from trainers.models import MODELS

LOG, PAUSE, KILLED = "TEST_UPDATES", "TEST_PAUSE", "TEST_KILLED"


def network(image_shape, classes):
    """A convolution and a dense layer."""
    layers = [
        keras.Input(image_shape),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(classes),
    ]
    return keras.Sequential(layers)


def write_down(update):
    """A line for an update: this worker's rank, the number of workers, the update."""
    from tf_lars import horovod as hvd

    rank, size = (hvd.rank(), hvd.size()) if "HOROVOD_RANK" in os.environ else (0, 1)
    with open(pathlib.Path(os.environ[LOG], str(os.getpid())), "a") as file:
        file.write(f"{rank} {size} {update}\n")
    return rank


def die_once(rank, update):
    """Ends this worker if KILLED says "RANK UPDATE FILE": once, which the file then shows."""
    given = os.environ.get(KILLED, "").split()
    if given[:2] == [str(rank), str(update)] and not pathlib.Path(given[2]).exists():
        pathlib.Path(given[2]).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def main():
    count = position.Position.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        count(self, batch, logs)
        die_once(write_down(self.update), self.update)
        time.sleep(float(os.environ[PAUSE]))

    position.Position.on_train_batch_end = on_train_batch_end
    MODELS["tiny"] = network
    train.main()


if __name__ == "__main__":
    main()
