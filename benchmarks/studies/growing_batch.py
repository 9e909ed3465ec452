"""Decay the learning rate, or grow the batch? (Smith et al. 2018, arXiv 1711.00489)

    python -m benchmarks.studies.growing_batch [--mnist=FOLDER]

trains a network with one hidden layer on the digits and on MNIST with SGD (momentum 0.9), five
seeds each, with a learning rate that falls to a fifth at a quarter, half and three quarters of the
epochs; with a batch that grows by `grow_batch` instead; and with the hybrid of the two, whose batch
grows once, after which the rate falls.
"""

import argparse
import time

from benchmarks.studies import command
from benchmarks.studies.data import flat_digits, mnist
from benchmarks.studies.runs import Runs

SEEDS = range(5)
SETTINGS = {
    # first batch, rate, epochs, largest batch, hidden units
    "digits": (16, 0.02, 40, 360, 64),
    "mnist": (128, 0.1, 8, 6000, 64),
}
ARMS = {"decay": "decay the rate", "hybrid": "grow once, then decay", "grow": "grow the batch"}
FACTOR = 5


def train(name, data, arm, seed):
    """One run: test accuracy and training loss by epoch, updates, seconds with the compiling."""
    import keras
    import tensorflow as tf

    from tf_lars.schedules import BatchSizeSchedule, WarmupStep, grow_batch
    from tf_lars.training.growing_batches import GrowingBatches
    from tf_lars.training.large_batch_model import LargeBatchModel

    (x, y), test = data
    batch, rate, epochs, largest, hidden = SETTINGS[name]
    per_epoch = len(x) // batch
    decay = WarmupStep(rate, [per_epoch * epochs * k // 4 for k in (1, 2, 3)], factor=1 / FACTOR)
    sizes, schedule = BatchSizeSchedule([batch]), decay
    if arm != "decay":
        largest = FACTOR * batch if arm == "hybrid" else largest
        sizes, schedule = grow_batch(
            decay, max_batch=largest, batch=batch, examples=len(x), multiple_of=batch
        )
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(x.shape[1:])
    hidden_layer = keras.layers.Dense(hidden, "relu")(inputs)
    model = LargeBatchModel(inputs, keras.layers.Dense(10)(hidden_layer))
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    rows = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
    growing = GrowingBatches(rows, sizes, len(x))
    began = time.perf_counter()
    history = model.fit(
        growing.dataset,
        epochs=epochs,
        validation_data=tf.data.Dataset.from_tensor_slices(test).batch(1000),
        callbacks=[growing],
        verbose=0,
    ).history
    return {
        "accuracy": history["val_accuracy"],
        "loss": history["loss"],
        "seconds": time.perf_counter() - began,
        "updates": int(model.optimizer.iterations),
        "batches": list(sizes.batches),
    }


def load(name, folder):
    """((images, labels), the same to test with), flat."""
    if name == "mnist":
        x, y, test_x, test_y = mnist(folder)
        return (x, y), (test_x, test_y)
    x, y, test_x, test_y = flat_digits()
    return (x, y), (test_x, test_y)


def kept():
    """(data, arm) → its runs, for those whose runs were all made."""
    runs, found = Runs("growing_batch"), {}
    for name in SETTINGS:
        for arm in ARMS:
            keys = [f"{name}/{arm}/{seed}" for seed in SEEDS]
            if all(key in runs.found for key in keys):
                found[name, arm] = [runs.get(key) for key in keys]
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", metavar="FOLDER", help=command.MNIST_HELP)
    folder = parser.parse_args(arguments).mnist
    command.one_core()
    runs = Runs("growing_batch")
    missing = len(SETTINGS) * len(SEEDS) * len(ARMS) - len(runs.found)
    print(f"growing_batch: {missing} runs to do", flush=True)
    for name in SETTINGS:
        if all(f"{name}/{arm}/{seed}" in runs.found for arm in ARMS for seed in SEEDS):
            continue
        data = load(name, folder)
        for seed in SEEDS:
            for arm in ARMS:
                runs.get(
                    f"{name}/{arm}/{seed}",
                    lambda name=name, data=data, arm=arm, seed=seed: train(name, data, arm, seed),
                )


if __name__ == "__main__":
    main()
