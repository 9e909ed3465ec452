"""What survival costs: checkpoints, the workers' exchanges, the start of a run.

    python -m benchmarks.checkpointing steps
    python -m benchmarks.checkpointing start
    horovodrun -np 2 python -m benchmarks.checkpointing exchange

`steps` trains ResNet-20 on the digits (batch 32) with a checkpoint every so many updates and
without any, in turn, and compares images/s; `start` measures from the start of the process to the
first checkpoint, which is written right after the first update; `exchange` times the all-reduce by
which workers agree to stop.
"""

import argparse
import contextlib
import dataclasses
import io
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

RECIPE = "configs/digits_resnet20_sgd_b32.flags"


def steps(rounds, every):
    """Images a second with a checkpoint every `every` updates, and without."""
    from trainers import loop
    from trainers.data.digits import digits
    from trainers.recipes import read_recipes
    from trainers.startup import start

    workers, data = start(), digits()
    recipe = read_recipes()[pathlib.Path(RECIPE).stem].config
    speeds = {"none": [], str(every): []}
    for _ in range(rounds):
        for interval, found in speeds.items():
            with tempfile.TemporaryDirectory() as folder:
                settings = {"epochs": 4, "warmup_epochs": 1.0, "eval_every": 4, "progress": "none"}
                settings["checkpoint_every"] = "1000000" if interval == "none" else interval
                config = dataclasses.replace(recipe, run_dir=folder, **settings)
                with contextlib.redirect_stdout(io.StringIO()):
                    found.append(
                        loop.train(config, data, workers, time.time())["images_per_second"]
                    )
    without, with_ = (statistics.median(found) for found in speeds.values())
    print(f"images/s without checkpoints {without:,.0f}: {_listed(speeds['none'])}")
    print(f"one every {every} updates {with_:,.0f}: {_listed(speeds[str(every)])}")
    print(f"cost of a step: {without / with_ - 1:+.1%}")


def start(rounds):
    """Seconds from the start of the process to the first update."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "trainers.train", f"--flagfile={RECIPE}"]
            began = time.monotonic()
            process = subprocess.Popen(
                [*command, f"--run_dir={folder}/run", "--checkpoint_every=1"],
                stdout=subprocess.DEVNULL,
            )
            first = pathlib.Path(folder, "run", "checkpoints", "update-00000001.npz")
            while not first.exists() and process.poll() is None:
                time.sleep(0.01)
            found.append(time.monotonic() - began)
            process.kill()
            process.wait()
    print(f"start to first update: {statistics.median(found):.1f} s ({_listed(found)})")


def exchange():
    """Milliseconds of an all-reduce of the numbers that workers compare, on each of them."""
    import numpy as np

    from trainers.startup import start

    workers = start()
    found = []
    for _ in range(300):
        workers.sum(np.zeros(1))  # what comes next begins together
        began = time.perf_counter()
        workers.sum(np.zeros(6))
        found.append(1e3 * (time.perf_counter() - began))
    if workers.rank == 0:
        low, median, high = (np.percentile(found, q) for q in (10, 50, 90))
        print(f"{workers.size} workers: {median:.2f} ms ({low:.2f} to {high:.2f}, 10 to 90 %)")


def _listed(values):
    return ", ".join(f"{value:,.1f}" for value in values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("steps", "start", "exchange"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=25, help="updates between checkpoints")
    arguments = parser.parse_args()
    if arguments.what == "steps":
        steps(arguments.rounds, arguments.every)
    elif arguments.what == "start":
        start(arguments.rounds)
    else:
        exchange()


if __name__ == "__main__":
    main()
