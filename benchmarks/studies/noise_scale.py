"""The noise scale over the training, to be held against the accuracy by batch.

    python -m benchmarks.studies.noise_scale [SETUP …] [--mnist=FOLDER]

trains each setup with SGD as it was chosen at one batch, three seeds, and keeps tr Σ/|G|²
(McCandlish et al. 2018, arXiv 1812.06162) at the end of each epoch, a moving average over updates.
"""

import keras

from benchmarks.studies import command, tuning

BATCHES = {"alexnet_mnist": 256, "resnet8_digits": 128}
SEEDS = range(100, 103)


def runs(lab):
    """The runs of a setup; `Missing` if `lab` does not train and they were not made."""
    batch = BATCHES[lab.name]
    warmup, rate = tuning.chosen(lab, "SGD", batch)
    return [
        lab.get(
            f"noise/{tuning.run_name('SGD', batch, warmup, rate, seed)}",
            lambda seed=seed: measure(lab, batch, warmup, rate, seed),
        )
        for seed in SEEDS
    ]


def resolved(found):
    """B_simple by epoch, [seeds, epochs], until its own standard error passes it in some seed."""
    count = 0
    for epoch in zip(
        *(zip(run["simple"], run["error"], strict=True) for run in found), strict=True
    ):
        if any(simple is None or error is None or error > simple for simple, error in epoch):
            break
        count += 1
    return [run["simple"][:count] for run in found]


def measure(lab, batch, warmup, rate, seed):
    """One run, with B_simple and its standard error by epoch."""
    from tf_lars.training.noise_scale import NoiseScale

    noise = NoiseScale(decay=0.9)
    kept = ByEpoch(noise)
    result = lab.trainer("SGD", batch).run(rate, warmup, seed, True, callbacks=[noise, kept])
    return result | {"simple": kept.simple, "error": kept.error}


class ByEpoch(keras.callbacks.Callback):
    """B_simple and its standard error whenever an epoch ends."""

    def __init__(self, noise):
        super().__init__()
        self.noise, self.simple, self.error = noise, [], []

    def on_epoch_end(self, epoch, logs=None):
        found = self.noise.noise()
        self.simple.append(found.simple)
        self.error.append(found.error)


def parts(name):
    return [command.Part("the noise scale", len(SEEDS), runs)]


def main(arguments=None):
    command.study(__doc__, parts, arguments)


if __name__ == "__main__":
    main()
