"""Seconds until 98 % of the test digits are right, on one worker and on two.

    python -m benchmarks.studies.time_to_accuracy

trains the recipe of `make train` (ResNet-20 with LARS, batch 512) until --target_top1, three seeds,
one and two workers in turn, one thread each. The only study that measures time: let nothing else
run. Kept are the seconds from the start of the process, with the imports and the tracing, and those
of training and evaluation from the end of the first evaluated epoch on.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.studies.runs import ROOT, Runs

SEEDS, TARGET = range(3), 0.98
FLAGS = ("--flagfile=configs/digits_resnet20_lars_b512.flags", f"--target_top1={TARGET}")


def main(arguments=None):
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    runs = Runs("time_to_accuracy")
    for seed in SEEDS:
        for workers in (1, 2):
            runs.get(f"{workers}/{seed}", lambda w=workers, s=seed: train(w, s))


def train(workers, seed):
    """One run: seconds and epochs to the target, and the accuracy there."""
    launch = ["-m", "tf_lars.horovod.run", "-np", str(workers), "python"] if workers > 1 else []
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        flags = (*FLAGS, f"--seed={seed}", f"--run_dir={folder}/run")
        begin = time.monotonic()
        subprocess.run(
            [sys.executable, *launch, "-m", "trainers.train", *flags],
            cwd=ROOT,
            env=os.environ | threads | {"PATH": path},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        wall = time.monotonic() - begin
        run = pathlib.Path(folder) / "run"
        summary = json.loads((run / "summary.json").read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if "val_top1" in row]
    return {
        "seconds_to_target": summary["seconds_to_target"],
        "first_evaluation": evaluated[0]["seconds"],
        "epochs_to_target": summary["epochs_to_target"],
        "accuracy": summary["final_top1"],
        "images_per_second": summary["images_per_second"],
        "wall_seconds": wall,
    }


if __name__ == "__main__":
    main()
