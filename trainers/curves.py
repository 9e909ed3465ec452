"""The picture of a run: accuracy, loss, rate and, where they matter, batch and noise scale."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")


def draw(rows, title, path):
    """Draws the rows of metrics.jsonl into a picture at `path`."""
    from matplotlib import pyplot as plt

    grows = len({row.get("batch_size") for row in rows}) > 1
    panels = 4 if grows or any("noise_scale" in row for row in rows) else 3
    figure, all_axes = plt.subplots(1, panels, figsize=(4.4 * panels, 3.6), layout="constrained")
    accuracy, loss, rate, *more = all_axes
    _plot(accuracy, rows, "top1", "training", scale=100)
    _plot(accuracy, rows, "val_top1", "test", scale=100)
    accuracy.set(title="Top-1 (%)", xlabel="epoch")
    _plot(loss, rows, "loss", "training")
    _plot(loss, rows, "val_loss", "test")
    loss.set(title="Loss", xlabel="epoch", yscale="log")
    _plot(rate, rows, "learning_rate", "learning rate")
    rate.set(title="Learning rate", xlabel="epoch")
    for sizes in more:
        _plot(sizes, rows, "batch_size", "batch")
        _plot(sizes, rows, "noise_scale", "noise scale")
        sizes.set(title="Batch and noise scale (examples)", xlabel="epoch", yscale="log")
    for axes in (accuracy, loss, *more):
        if axes.has_data():
            axes.legend(frameon=False)
    for axes in all_axes:
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def compare(rows_of, path):
    """Draws the test accuracy of several runs, {name: rows}, over epochs and over updates."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    for axes, along in zip(panels, ("epoch", "updates"), strict=True):
        for name, rows in rows_of.items():
            _plot(axes, rows, "val_top1", name, scale=100, along=along)
        axes.set(xlabel=along.rstrip("s") + "s", title="Top-1 on the test images (%)")
        axes.grid(alpha=0.3)
    if panels[0].has_data():
        panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot(axes, rows, name, label, scale=1.0, along="epoch"):
    points = [(row[along], row[name] * scale) for row in rows if row.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=label)
