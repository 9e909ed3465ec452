"""The noise scale over the training, against the largest batch that kept the accuracy.

    python -m benchmarks.studies.noise_scale [SETUP …] [--mnist=FOLDER]

trains each setup with SGD as it was chosen at BATCH, three seeds, and keeps B_simple = tr Σ/|G|²
(McCandlish et al. 2018, arXiv 1812.06162) at the end of each epoch, a moving average over updates.
"""

from benchmarks.studies import command, tuning
from benchmarks.studies.runs import Runs

BATCH, SEEDS = 256, range(100, 103)


def main():
    runs = Runs("noise_scale")
    for lab in command.labs(__doc__):
        (warmup, rate), _ = next(iter(tuning.choose(lab, "SGD", BATCH).items()))
        for seed in SEEDS:
            runs.get(
                f"{lab.name}/{seed}",
                lambda lab=lab, w=warmup, r=rate, seed=seed: measure(lab, w, r, seed),
            )


def measure(lab, warmup, rate, seed):
    """One run, with B_simple and its standard error by epoch."""
    import keras

    from tf_lars.training.noise_scale import NoiseScale

    class ByEpoch(keras.callbacks.Callback):
        """The estimate and its error whenever an epoch ends."""

        def __init__(self):
            super().__init__()
            self.simple, self.error = [], []

        def on_epoch_end(self, epoch, logs=None):
            found = noise.noise()
            self.simple.append(found.simple)
            self.error.append(found.error)

    noise, kept = NoiseScale(decay=0.9), ByEpoch()
    result = lab.trainer("SGD", BATCH).run(rate, warmup, seed, True, callbacks=[noise, kept])
    return result | {"batch": BATCH, "simple": kept.simple, "error": kept.error}


def kept(setup):
    """The runs of a setup; `Missing` if they were not made."""
    return [Runs("noise_scale").get(f"{setup}/{seed}") for seed in SEEDS]


if __name__ == "__main__":
    main()
