"""What survival costs: checkpoints, the workers' exchanges, the start of a run.

    python -m benchmarks.checkpointing steps --network=resnet50
    python -m benchmarks.checkpointing start
    horovodrun -np 2 python -m benchmarks.checkpointing exchange

`steps` trains on one batch of noise and measures, on the clock and in processor time of all
threads: a step, how long a checkpoint holds training up, how long it takes with its writing when
nothing else is done, and by how much steps take longer in whose time one is saved and written.
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
# The data set and the batch that each network is measured with; SGD with momentum.
NETWORKS = {
    "resnet20": {"dataset": "digits", "global_batch_size": 32},
    "resnet50": {"dataset": "synthetic", "global_batch_size": 8, "synthetic_examples": 64},
}


def steps(network, repeats, together):
    """Prints what a checkpoint costs beside the steps of a network."""
    with tempfile.TemporaryDirectory() as folder:
        step, checkpoints = _training(network, folder)
        numbers = itertools.count(1)

        def save():
            rows = [{"epoch": 1, "updates": 1, "loss": 1.0}] * 60
            checkpoints.save({"update": next(numbers), "world_size": 1, "rows": rows, "states": {}})

        def block(saves):
            checkpoints.finish()
            began = _now()
            if saves:
                save()
            for _ in range(together):
                step()
            return _now() - began

        own = _medians(step, repeats)
        held = _medians(save, repeats, then=checkpoints.finish)
        written = _medians(lambda: (save(), checkpoints.finish()), repeats)
        pairs = [(block(True), block(False)) for _ in range(repeats)]
        (file, *_) = pathlib.Path(folder, "checkpoints").iterdir()
        print(f"{network}, a checkpoint of {file.stat().st_size / 1e6:.1f} MB")
    added = [[with_[i] - without[i] for with_, without in pairs] for i in (0, 1)]
    print(f"{'milliseconds':32}  on the clock  of processor time")
    for name, (clock, processor) in {
        "a step": own,
        "held up by a checkpoint": held,
        "a checkpoint with its writing": written,
        f"added to the next {together} steps": [statistics.median(times) for times in added],
    }.items():
        print(f"{name:32}  {clock:12,.1f}  {processor:17,.1f}")


def _training(network, folder):
    """(function that makes an update, Checkpoints) of a network."""
    import numpy as np

    from trainers import loop
    from trainers.checkpoints import Checkpoints
    from trainers.config import TrainConfig
    from trainers.data import DATASETS
    from trainers.derived import derive
    from trainers.run_directory import RunDirectory
    from trainers.startup import start

    settings = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "epochs": 1}
    config = TrainConfig(model=network, **settings, **NETWORKS[network])
    workers, dataset = start(), DATASETS[config.dataset]
    data = dataset(**config.options_for(dataset)).prepare(workers)
    plan = derive(config, data.examples("train"), data.examples("test"), 1)
    model, _ = loop.build(config, plan, data, workers)
    noise, batch = np.random.default_rng(0), config.global_batch_size
    images = noise.normal(size=(batch, *data.image_shape)).astype("float32")
    labels = np.eye(data.classes, dtype="float32")[noise.integers(data.classes, size=batch)]
    checkpoints = Checkpoints(RunDirectory(folder), model, workers, keep=2)
    return lambda: model.train_on_batch(images, labels), checkpoints


def _now():
    import numpy as np

    return 1e3 * np.array([time.monotonic(), time.process_time()])


def _medians(work, repeats, then=lambda: None):
    """The medians of what `work()` takes, (clock, processor) in ms; `then()` is not counted."""
    found = []
    for _ in range(repeats + 2):
        began = _now()
        work()
        found.append(_now() - began)
        then()
    return [statistics.median(times) for times in zip(*found[2:], strict=True)]


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
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--repeats", type=int, default=20, help="of what is measured in `steps`")
    parser.add_argument("--together", type=int, default=10, help="steps beside one checkpoint")
    arguments = parser.parse_args()
    if arguments.what == "steps":
        steps(arguments.network, arguments.repeats, arguments.together)
    elif arguments.what == "start":
        start(arguments.rounds)
    else:
        exchange()


if __name__ == "__main__":
    main()
