"""What survival costs: checkpoints, the workers' exchanges, the start of a run.

    python -m benchmarks.checkpointing steps
    python -m benchmarks.checkpointing start
    horovodrun -np 2 python -m benchmarks.checkpointing exchange

`steps` measures ResNet-20 on the digits (batch 32) in processor time, which a busy machine disturbs
less than the clock: a step, what a checkpoint holds training up, and what it takes in all threads;
`start` measures from the start of the process to the first checkpoint, which is written right after
the first update; `exchange` times the all-reduce by which workers agree to stop.
"""

import argparse
import itertools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

RECIPE = "configs/digits_resnet20_sgd_b32.flags"


def steps(every):
    """The processor time of a step, and what a checkpoint adds to it."""
    import numpy as np

    from trainers import loop
    from trainers.checkpoints import Checkpoints
    from trainers.data.digits import digits
    from trainers.derived import derive
    from trainers.recipes import read_recipes
    from trainers.run_directory import RunDirectory
    from trainers.startup import start

    workers, data = start(), digits()
    config = read_recipes()[pathlib.Path(RECIPE).stem].config
    plan = derive(config, data.examples("train"), data.examples("test"), 1)
    model, _ = loop.build(config, plan, data, workers)
    images, labels = (array[: config.global_batch_size] for array in data.train)
    labels = np.eye(data.classes, dtype="float32")[labels]
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(RunDirectory(folder), model, workers, keep=2)
        numbers = itertools.count(1)

        def save():
            rows = [{"epoch": 1, "updates": 1, "loss": 1.0}] * 60
            progress = {"update": next(numbers), "world_size": 1, "rows": rows, "states": {}}
            checkpoints.save(progress)

        def save_and_write():
            save()
            checkpoints.finish()

        step = _processor_ms(lambda: model.train_on_batch(images, labels))
        held = _processor_ms(save, then=checkpoints.finish)
        all_of_it = _processor_ms(save_and_write)
        (size,) = {file.stat().st_size for file in pathlib.Path(folder, "checkpoints").iterdir()}
    print(f"a step {step:.1f} ms of processor time; a checkpoint of {size / 1e6:.1f} MB holds it")
    print(f"{held:.1f} ms and takes {all_of_it:.1f} ms with the writing: one every {every} updates")
    print(f"adds {held / every / step:.1%} to a step, {all_of_it / every / step:.1%} at most")


def _processor_ms(work, then=lambda: None, repeats=30):
    """The median processor time of `work()`, all threads, in ms; `then()` is not counted."""
    found = []
    for _ in range(repeats + 3):
        began = time.process_time()
        work()
        found.append(1e3 * (time.process_time() - began))
        then()
    return statistics.median(found[3:])


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
        steps(arguments.every)
    elif arguments.what == "start":
        start(arguments.rounds)
    else:
        exchange()


if __name__ == "__main__":
    main()
