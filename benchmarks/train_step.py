"""Images a second: the trainers' step against a bare Keras `fit` of the same network and data.

    python -m benchmarks.train_step --network=resnet20
    python -m benchmarks.train_step --network=resnet50

Both train with SGD and momentum on the same images, already in memory, on one worker. The bare fit
is what a short script does: `model.compile`, `model.fit` over a tf.data of one batch that repeats.
Ours is `trainers.train`: its schedule, shuffled index stream, L2 decay, metrics and callbacks. They
take turns in blocks of steps within one process, so that both have the machine in the same state;
a block begins after a step that is not counted. The ratio is taken block by block, of the time on
the clock and of processor time, which other work on the machine disturbs less.
"""

import os
import statistics
import tempfile
import threading
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from absl import app, flags

from trainers import loop
from trainers.config import TrainConfig
from trainers.data import DATASETS
from trainers.models import MODELS
from trainers.startup import Workers

# Side of an image, classes, images in a step.
SIZES = {"resnet20": (32, 10, 128), "resnet50": (224, 1000, 8)}

_MODEL = flags.DEFINE_enum("network", "resnet20", sorted(SIZES), "Network to train.")
_BATCH = flags.DEFINE_integer("images", None, "Images in a step.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 10, "Steps in a block.", lower_bound=1)
_BLOCKS = flags.DEFINE_integer("blocks", 8, "Blocks of each.", lower_bound=1)


class Turns(keras.callbacks.Callback):
    """Lets two threads train in turns, block by block, and takes the time of each block.

    Args:
        mine, others: semaphores; a block begins when it has got `mine` and ends by giving `others`.
        steps: in a block, after the one that is not counted.
    """

    def __init__(self, mine, others, steps):
        super().__init__()
        self.mine, self.others, self.steps = mine, others, steps
        self.wall, self.processor = [], []
        self._in_block = 0

    def on_train_batch_begin(self, batch, logs=None):
        if self._in_block == 0:
            self.mine.acquire()

    def on_train_batch_end(self, batch, logs=None):
        if self._in_block == 0:
            self._began = time.perf_counter(), time.process_time()
        self._in_block += 1
        if self._in_block > self.steps:
            wall, processor = self._began
            self.wall.append((time.perf_counter() - wall) / self.steps)
            self.processor.append((time.process_time() - processor) / self.steps)
            self._in_block = 0
            self.others.release()


def bare(name, data, steps, turns):
    """What a short script does."""
    keras.utils.set_random_seed(0)
    model = MODELS[name](data.image_shape, data.classes)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images = tf.random.stateless_normal([data.batch, *data.image_shape], [0, 0])
    labels = tf.one_hot(tf.range(data.batch) % data.classes, data.classes)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    model.fit(batches, steps_per_epoch=steps, epochs=1, callbacks=[turns], verbose=0)


def ours(name, data, steps, turns, folder):
    """`trainers.train` with the Turns among its callbacks."""
    config = TrainConfig(
        dataset="synthetic",
        model=name,
        image_size=data.image_shape[0],
        synthetic_classes=data.classes,
        synthetic_examples=steps * data.batch,
        global_batch_size=data.batch,
        optimizer="sgd",
        momentum=0.9,
        learning_rate=0.01,
        epochs=1,
        precise_bn_examples=0,
        progress="none",
        run_dir=folder,
    )
    make = DATASETS["synthetic"]
    dataset = make(**config.options_for(make)).prepare(Workers())
    synchronisation = loop._synchronisation
    loop._synchronisation = lambda *arguments: [turns, *synchronisation(*arguments)]
    loop.train(config, dataset, Workers(), time.time())


def main(_):
    side, classes, batch = SIZES[_MODEL.value]
    batch = _BATCH.value or batch
    data = types.SimpleNamespace(image_shape=(side, side, 3), classes=classes, batch=batch)
    steps = _BLOCKS.value * (_STEPS.value + 1)
    one, other = threading.Semaphore(1), threading.Semaphore(0)
    turns = {
        "bare": Turns(one, other, _STEPS.value),
        "ours": Turns(other, one, _STEPS.value),
    }
    peer = threading.Thread(target=bare, args=(_MODEL.value, data, steps, turns["bare"]))
    peer.start()
    # Signals are heeded in the main thread only, so the trainers run here.
    with tempfile.TemporaryDirectory() as folder:
        ours(_MODEL.value, data, steps, turns["ours"], f"{folder}/run")
    peer.join()
    print(f"{_MODEL.value}, {side}×{side}, {batch} images a step, {os.cpu_count()} cores")
    for clock in ("wall", "processor"):
        medians = {name: statistics.median(getattr(turn, clock)) for name, turn in turns.items()}
        pairs = zip(*(getattr(turn, clock) for turn in turns.values()), strict=True)
        ratios = sorted(theirs / own for theirs, own in pairs)
        figures = ", ".join(
            f"{name} {1000 * seconds:.1f} ms a step ({batch / seconds:.1f} images/s)"
            for name, seconds in medians.items()
        )
        print(
            f"{clock:10}{figures}; ours to bare {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f} over {len(ratios)} pairs of blocks)"
        )


if __name__ == "__main__":
    app.run(main)
