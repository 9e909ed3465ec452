"""Compares runs: `python -m trainers.report runs/ONE runs/OTHER … [--picture=FILE.png]`.

Prints a table of the runs (the last column: minutes to --target_top1) and, if asked, draws their
test accuracy over epochs and updates. Exit codes: 0 done, 2 a folder holds no run.
"""

from absl import flags

from trainers import command, curves
from trainers.errors import ConfigError
from trainers.run_directory import RunDirectory

_PICTURE = flags.DEFINE_string("picture", None, "Where to draw the runs' test accuracy.")

_COLUMNS = (
    *("run", "batch", "workers", "epochs", "updates", "top-1", "best", "images/s", "minutes"),
    "to target",
)


def report(argv):
    runs = [RunDirectory(folder) for folder in argv[1:]]
    if not runs:
        raise ConfigError("give the folders of one run or more: runs/ONE runs/OTHER")
    rows = [_COLUMNS, *(_row(run) for run in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    for row in rows:
        _, *numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(widths[0]), *numbers]))
    if _PICTURE.value:
        curves.compare({run.folder.name: run.metrics() for run in runs}, _PICTURE.value)


def _row(run):
    """The cells of a run; of one that goes on, what it has got to."""
    plan, rows = run.plan(), run.metrics()
    if plan is None or not rows:
        raise ConfigError(f"{run.folder} holds no run, or none that has done an epoch.")
    accuracies = [row["val_top1"] for row in rows if row.get("val_top1") is not None]
    summary = run.summary() or {}
    to_target = summary.get("seconds_to_target")
    cells = [
        run.folder.name,
        str(plan["global_batch_size"]),
        str(plan["world_size"]),
        str(rows[-1]["epoch"]),
        str(rows[-1]["updates"]),
        f"{accuracies[-1]:.2%}" if accuracies else "–",
        f"{max(accuracies):.2%}" if accuracies else "–",
        f"{summary.get('images_per_second', rows[-1]['images_per_second']):,.0f}",
        f"{rows[-1]['seconds'] / 60:.1f}",
        f"{to_target / 60:.1f}" if to_target is not None else "–",
    ]
    if summary.get("diverged"):
        cells[5] = "diverged"
    return cells


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise ConfigError(str(error)) from error


def main():
    command.run("trainers.report", report, _parse)


if __name__ == "__main__":
    main()
