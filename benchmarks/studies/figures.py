"""The figures of docs/results.md, each made from the runs in results/ and saved as PNG and SVG."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.studies import growing_batch, layers, noise_scale, tuning
from benchmarks.studies.runs import IMAGES, Missing
from benchmarks.studies.setups import OPTIMIZERS, SETUPS
from benchmarks.studies.tuning import Lab

STYLE = {
    "SGD": {"color": "0.25", "marker": "s"},
    "LARS": {"color": "tab:blue", "marker": "o"},
    "LAMB": {"color": "tab:orange", "marker": "^"},
    "CLARS": {"color": "tab:green", "marker": "D"},
    "CLARS, microbatch": {"color": "tab:purple", "marker": "v"},
    "CLARS, scaled": {"color": "tab:red", "marker": "x"},
}
RATES_AT = {"alexnet_mnist": 256, "resnet8_digits": 1024}


def save(figure, name):
    IMAGES.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = name
    for kind in ("png", "svg"):
        # No date inside: the same runs give the same file.
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(IMAGES / f"{name}.{kind}", dpi=120, metadata=metadata)
    plt.close(figure)


def batch_size():
    """Test accuracy against the batch; error bars are standard errors over five seeds."""
    figure, axes = plt.subplots(1, len(SETUPS), figsize=(5.2 * len(SETUPS), 4.2))
    for axis, name in zip(axes, SETUPS, strict=True):
        lab = Lab(name)
        for optimizer in OPTIMIZERS:
            found = {b: tuning.known(lab, optimizer, b) for b in lab.setup.batches}
            found = {batch: cell for batch, cell in found.items() if cell}
            axis.errorbar(
                list(found),
                [cell["mean"] for cell in found.values()],
                [cell["error"] for cell in found.values()],
                capsize=3, label=optimizer, **STYLE[optimizer],
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_xticks(lab.setup.batches, [f"{batch:,}" for batch in lab.setup.batches])
        axis.set(title=lab.setup.words, xlabel="batch", ylabel="test accuracy, %")
        axis.title.set_size(9)
        axis.grid(alpha=0.3)
    axes[0].legend()
    return _tight(figure)


def rates():
    """Validation accuracy against the learning rate over the best one, the better warm-up."""
    figure, axes = plt.subplots(1, len(SETUPS), figsize=(5.2 * len(SETUPS), 4.2))
    for axis, (name, batch) in zip(axes, RATES_AT.items(), strict=True):
        lab = Lab(name)
        for optimizer in OPTIMIZERS:
            try:
                trials = tuning.best_by_rate(tuning.trials(lab, optimizer, batch))
            except Missing:
                continue
            best = max(trials, key=trials.get)
            rates = np.array(sorted(trials))
            values = [100 * trials[rate] for rate in rates]
            axis.plot(rates / best, values, label=optimizer, **STYLE[optimizer])
        axis.set(xscale="log", xlabel="learning rate / the optimizer's best one")
        axis.set(title=f"{lab.setup.words}, batch {batch:,}", ylabel="validation accuracy, %")
        axis.title.set_size(9)
        axis.grid(alpha=0.3)
    axes[1].legend(loc="lower center")
    return _tight(figure)


def noise():
    """B_simple over the epochs, mean and smallest to largest of three seeds."""
    figure, axis = plt.subplots(figsize=(5.6, 4))
    for name, colour in zip(SETUPS, ("tab:blue", "tab:orange"), strict=True):
        try:
            runs = noise_scale.runs(Lab(name))
        except Missing:
            continue
        values = np.array(noise_scale.resolved(runs))
        epochs = np.arange(1, values.shape[1] + 1)
        axis.plot(epochs, values.mean(0), color=colour, label=SETUPS[name].words)
        axis.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2)
    axis.set(xlabel="epoch", ylabel="noise scale, rows", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return _tight(figure)


def ratios():
    """The trust ratios of LARS over the updates, as heat maps."""
    figure, axes = plt.subplots(1, len(SETUPS), figsize=(5.6 * len(SETUPS), 4.2))
    for axis, name in zip(axes, SETUPS, strict=True):
        try:
            run = layers.run(Lab(name))
        except Missing:
            continue
        paths, values = list(run["trust_ratios"]), np.array(list(run["trust_ratios"].values()))
        mesh = axis.pcolormesh(
            [0, *run["updates"]], np.arange(len(paths) + 1), np.log10(values), rasterized=True
        )
        axis.invert_yaxis()
        axis.set_yticks(np.arange(len(paths)) + 0.5, paths, fontsize=6)
        axis.set(xlabel="update", title=SETUPS[name].words)
        axis.title.set_size(9)
        figure.colorbar(mesh, ax=axis, label="log₁₀ trust ratio")
    return _tight(figure)


def growing():
    """Training loss and test accuracy by epoch, means over five seeds."""
    names = list(growing_batch.SETTINGS)
    figure, axes = plt.subplots(2, len(names), figsize=(5 * len(names), 6))
    for (name, arm), runs in growing_batch.kept().items():
        for row, key in enumerate(("loss", "accuracy")):
            curve = np.mean([run[key] for run in runs], 0)
            epochs = np.arange(1, len(curve) + 1)
            axes[row, names.index(name)].plot(epochs, curve, label=growing_batch.ARMS[arm])
    for column, name in enumerate(names):
        axes[0, column].set(title=name, yscale="log", ylabel="training loss")
        axes[1, column].set(xlabel="epoch", ylabel="test accuracy")
        axes[0, column].legend()
    return _tight(figure)


def _tight(figure):
    figure.tight_layout()
    return figure


FIGURES = {
    "batch_size": batch_size,
    "learning_rates": rates,
    "noise_scale": noise,
    "trust_ratios": ratios,
    "growing_batch": growing,
}
