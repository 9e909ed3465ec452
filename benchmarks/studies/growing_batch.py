"""Decay the learning rate, or grow the batch? (Smith et al. 2018, arXiv 1711.00489)

    python -m benchmarks.studies.growing_batch --mnist=FOLDER

trains a small network on the digits and on MNIST with SGD (momentum 0.9), five seeds each, with a
learning rate that falls to a fifth at a quarter, half and three quarters of the epochs, and with a
batch that grows by `grow_batch` instead. Runs that are done are kept in results/growing_batch.json;
the table is printed and the curves go to docs/images/growing_batch.png.
"""

import argparse
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from benchmarks.studies.runs import Runs, digits, mean_and_error, mnist
from tf_lars.schedules import BatchSizeSchedule, WarmupStep, grow_batch
from tf_lars.training.growing_batches import GrowingBatches
from tf_lars.training.large_batch_model import LargeBatchModel

SEEDS = range(5)
SETTINGS = {
    # first batch, rate, epochs, largest batch, hidden units
    "digits": (16, 0.02, 40, 360, 64),
    "mnist": (128, 0.1, 8, 6000, 64),
}
ARMS = {"decay": "decay the rate", "grow": "grow the batch"}
FIGURE = pathlib.Path("docs/images/growing_batch.png")


def train(name, data, arm, seed):
    """One run: accuracy and loss by epoch, and the number of updates."""
    x, y, test_x, test_y = data
    batch, rate, epochs, largest, hidden = SETTINGS[name]
    per_epoch = len(x) // batch
    decay = WarmupStep(rate, [per_epoch * epochs * k // 4 for k in (1, 2, 3)], factor=0.2)
    sizes, schedule = BatchSizeSchedule([batch]), decay
    if arm == "grow":
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
    test = tf.data.Dataset.from_tensor_slices((test_x, test_y)).batch(1000)
    history = model.fit(
        growing.dataset, epochs=epochs, validation_data=test, callbacks=[growing], verbose=0
    ).history
    return {
        "final": history["val_accuracy"][-1],
        "accuracy": history["val_accuracy"],
        "loss": history["loss"],
        "updates": int(model.optimizer.iterations),
        "batches": list(sizes.batches),
        "rates": [float(r) for r in getattr(schedule, "rates", [rate * 0.2**k for k in range(4)])],
    }


def report(results, names):
    """The table in Markdown, and the figure."""
    print("| data | arm | batches | updates | final top-1, % | final training loss |")
    print("|---|---|---|---|---|---|")
    figure, axes = plt.subplots(2, len(names), figsize=(5 * len(names), 6), squeeze=False)
    for column, name in enumerate(names):
        for arm, label in ARMS.items():
            runs = [results[f"{name}/{arm}/{seed}"] for seed in SEEDS]
            accuracy = mean_and_error([100 * run["final"] for run in runs])
            loss = mean_and_error([run["loss"][-1] for run in runs])
            batches = " → ".join(f"{b:,}" for b in runs[0]["batches"])
            print(
                f"| {name} | {label} | {batches} | {runs[0]['updates']:,} | "
                f"{accuracy[0]:.2f} ± {accuracy[1]:.2f} | {loss[0]:.4f} ± {loss[1]:.4f} |"
            )
            for row, key in enumerate(("loss", "accuracy")):
                curve = np.mean([run[key] for run in runs], 0)
                axes[row, column].plot(np.arange(1, len(curve) + 1), curve, label=label)
        axes[0, column].set(title=name, yscale="log", ylabel="training loss")
        axes[1, column].set(xlabel="epoch", ylabel="test accuracy")
        axes[0, column].legend()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", help="folder with MNIST's four .gz files; digits alone without")
    folder = parser.parse_args().mnist
    tf.config.threading.set_intra_op_parallelism_threads(1)
    sets = {"digits": digits()} | ({"mnist": mnist(folder)} if folder else {})
    runs = Runs("growing_batch")
    for name, data in sets.items():
        for seed in SEEDS:
            for arm in ARMS:
                runs.get(
                    f"{name}/{arm}/{seed}",
                    lambda name=name, data=data, arm=arm, seed=seed: train(name, data, arm, seed),
                )
    report(runs.found, list(sets))


if __name__ == "__main__":
    main()
