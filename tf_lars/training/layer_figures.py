"""The pictures of `LayerReport`: the layer table, and the trust ratios over time."""

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

ROWS_IN_A_BLOCK = 60
ROW_HEIGHT, COLUMN_WIDTH = 0.19, 0.78  # inches
RECORD_WIDTH = 4 * COLUMN_WIDTH + 0.2
LABELS_AT_MOST = 160
LONGEST_LABEL = 46
COLOURS = colormaps["viridis"]


def draw_table(records, path):
    """Draw the table of all adapting variables, with four columns for each record, as a PNG.

    Args:
        records: one or two dicts with `step`, `trust_ratio`, and where there are any `weight_norm`
            and `gradient_norm`, each by variable path.
        path: the file to write.
    """
    if records[0]["step"] == records[-1]["step"]:
        records = records[:1]
    paths = adapting_paths(records)
    labels = short_labels(paths)
    label_width = 0.3 + 0.068 * max(map(len, labels))
    block_width = label_width + len(records) * RECORD_WIDTH + 0.3
    blocks = math.ceil(len(paths) / ROWS_IN_A_BLOCK)
    rows = math.ceil(len(paths) / blocks)
    figure = Figure(figsize=(blocks * block_width + 0.3, ROW_HEIGHT * (rows + 3)))
    # One unit is an inch across and a row down, with the first row at 0.
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-0.3, blocks * block_width), ylim=(rows + 0.5, -2.5))
    ax.axis("off")
    scale = _log_scale([record["trust_ratio"].get(p) for record in records for p in paths])
    for k in range(blocks):
        shown = slice(k * rows, (k + 1) * rows)
        left = k * block_width
        _draw_labels(ax, left, block_width - 0.3, labels[shown])
        for n, record in enumerate(records):
            _draw_record(
                ax, left + label_width + n * RECORD_WIDTH, record, paths[shown], scale, title=k == 0
            )
    figure.savefig(path, dpi=110, facecolor="white")


def _draw_labels(ax, left, width, labels):
    ax.text(left, -0.5, "variable", va="center", fontsize=8, fontweight="bold")
    ax.plot([left, left + width], [0, 0], color="black", linewidth=0.8)
    for y, label in enumerate(labels):
        if y % 2:
            ax.add_patch(Rectangle((left, y), width, 1, color="0.95", linewidth=0))
        ax.text(left, y + 0.53, label, va="center", fontsize=7.5)


def _draw_record(ax, left, record, paths, scale, title):
    rights = [left + COLUMN_WIDTH * (k + 1) for k in range(4)]
    if title:
        rate = record.get("learning_rate")
        at_rate = "" if rate is None else f" at learning rate {rate:.4g}"
        ax.text(
            rights[-1], -1.6, f"update {record['step']:,}{at_rate}", ha="right", va="center",
            fontsize=9,
        )  # fmt: skip
    for right, name in zip(rights, ("‖w‖", "‖g‖", "‖w‖/‖g‖", "trust ratio"), strict=True):
        ax.text(right, -0.5, name, ha="right", va="center", fontsize=8, fontweight="bold")
    for y, path in enumerate(paths):
        weight = record.get("weight_norm", {}).get(path)
        gradient = record.get("gradient_norm", {}).get(path)
        ratio = record["trust_ratio"].get(path)
        quotient = weight / gradient if weight is not None and gradient else None
        colour = _colour(ratio, scale)
        ax.add_patch(
            Rectangle((rights[-2] + 0.1, y), COLUMN_WIDTH - 0.05, 1, color=colour, linewidth=0)
        )
        inks = ("black", "black", "black", _ink(colour))
        for right, value, ink in zip(
            rights, (weight, gradient, quotient, ratio), inks, strict=True
        ):
            ax.text(
                right, y + 0.53, "–" if value is None else f"{value:.4g}", ha="right", va="center",
                fontsize=7.5, color=ink,
            )  # fmt: skip


def draw_heat_map(records, path):
    """Draw the trust ratios of all adapting variables over the updates, as a PNG.

    Args:
        records: dicts with `step` and `trust_ratio` by variable path, in the order of the steps.
        path: the file to write.
    """
    paths = adapting_paths(records)
    values = np.array(
        [[r["trust_ratio"].get(p) for r in records] for p in paths], dtype=np.float64
    ).reshape(len(paths), len(records))
    labels_every = math.ceil(len(paths) / LABELS_AT_MOST) if paths else 1
    labelled = len(paths) / labels_every
    figure = Figure(figsize=(10, 0.155 * labelled + 1.6), layout="constrained")
    ax = figure.subplots()
    ax.set_title("trust ratio of each variable, in the order of the model", loc="left", fontsize=11)
    ax.set_facecolor("0.8")  # what is not finite or not positive
    masked = np.ma.masked_where(~(np.isfinite(values) & (values > 0)), values)
    steps = [record["step"] for record in records]
    mesh = ax.pcolormesh(
        _edges(steps), np.arange(len(paths) + 1), masked, cmap=COLOURS,
        norm=_log_scale(values.ravel()), rasterized=True,
    )  # fmt: skip
    ax.invert_yaxis()
    ax.set_yticks(
        np.arange(len(paths))[::labels_every] + 0.5, short_labels(paths)[::labels_every], fontsize=7
    )
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("update")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(mesh, ax=ax, shrink=min(1.0, 6 / figure.get_figheight()), pad=0.01)
    bar.set_label("trust ratio (logarithmic)")
    figure.savefig(path, dpi=110, facecolor="white")


def adapting_paths(records):
    """The variables whose ratio is not 1 in some record; all of them if there is none."""
    paths = list(records[-1]["trust_ratio"])
    adapting = [p for p in paths if any(r["trust_ratio"].get(p) != 1.0 for r in records)]
    return adapting or paths


def short_labels(paths):
    """The paths without the folders that all share, shortened in the middle where too long."""
    parts = [path.split("/") for path in paths]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return [_shortened("/".join(p[shared:])) for p in parts]


def _shortened(text):
    if len(text) <= LONGEST_LABEL:
        return text
    half = (LONGEST_LABEL - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _log_scale(values):
    positive = [v for v in values if v is not None and math.isfinite(v) and v > 0] or [1.0]
    low, high = min(positive), max(positive)
    return LogNorm(low, high) if high > 1.001 * low else LogNorm(low / 2, high * 2)


def _colour(ratio, colour_scale):
    return COLOURS(float(colour_scale(ratio))) if ratio and ratio > 0 else (0.8, 0.8, 0.8, 1.0)


def _ink(colour):
    """Black or white, whichever can be read on the colour."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return "black" if luminance > 0.5 else "white"


def _edges(steps):
    """The borders of the columns: each record stands for the updates since the one before."""
    if len(steps) == 1:
        return [steps[0] - 1, steps[0]]
    return [steps[0] - (steps[1] - steps[0]), *steps] if steps[0] > 1 else [0, *steps]
