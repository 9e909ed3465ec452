"""SIGKILL at random moments of a run, which then goes on to the same end."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests import workers
from tests.trainers import tiny_run

FLAGS = [
    *("--dataset=digits", "--model=tiny"),
    *("--global_batch_size=64", "--epochs=6", "--optimizer=lars", "--learning_rate=1"),
    *("--warmup_epochs=1", "--random_shift=1", "--eval_every=2", "--lr_schedule=step"),
    *("--lr_milestones=2.5,4", "--lr_factor=0.5", "--grow_batch_factor=2", "--micro_batch_size=16"),
    *("--noise_scale", "--checkpoint_every=1", "--progress=none", "--precise_bn_examples=0"),
]


class Run:
    """A run on one or two workers, in processes that can be killed.

    One worker is forked from a process that has loaded TensorFlow already, which takes longer than
    such a run does.
    """

    def __init__(self, folder, size):
        self.folder, self.size = folder, size
        self.output = folder.parent / f"{folder.name}.output"
        flags = [*FLAGS, f"--run_dir={folder}"]
        if size == 1:
            forked = multiprocessing.get_context("forkserver")
            forked.set_forkserver_preload(["tests.trainers.tiny_run"])
            self.process = forked.Process(
                target=tiny_run.main, args=(flags, self.output, workers.environment())
            )
            self.process.start()
            return
        script = [sys.executable, "-m", "tests.trainers.tiny_run", *flags]
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [*workers.QUICK_LAUNCHER, "--gloo", "-np", str(size), *script],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=workers.environment(),
                cwd=workers.ROOT,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        workers.kill_tree(self.process.pid)
        self.wait()

    def wait(self, seconds=60):
        """The exit code, once the run has ended; None if it has not by then."""
        if self.size == 1:
            self.process.join(seconds)
            return self.process.exitcode
        return self.process.wait(seconds)

    def has_ended(self):
        return (self.process.exitcode if self.size == 1 else self.process.poll()) is not None

    def wait_until_it_trains(self):
        while not self.has_ended() and not any(self.folder.glob("checkpoints/update-*.npz")):
            time.sleep(0.01)

    def kill(self, generator):
        """Kills a worker, and waits until the launcher has ended the other one."""
        pid = self.process.pid
        if self.size > 1:
            pids = workers.worker_pids(pid)
            pid = pids[generator.choice(sorted(pids))] if pids else pid
        os.kill(pid, signal.SIGKILL)
        self.wait()

    def finish(self):
        assert self.wait(400) == 0, self.output.read_text()


def contents(folder):
    """What must be the same: final weights and rows, without what the clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(x).items() if "second" not in k} for x in lines]
    return keras.models.load_model(folder / "final.keras").get_weights(), rows


def assert_nothing_is_half_written(folder):
    for file in folder.glob("checkpoints/update-*.npz"):
        with np.load(file) as archive:
            assert all(archive[name] is not None for name in archive.files)
    for name in ("config.json", "environment.json", "summary.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Function of the number of workers: what an undisturbed run gives, and how long it trains."""
    found = {}

    def run(size):
        if size not in found:
            folder = tmp_path_factory.mktemp("undisturbed") / f"np{size}"
            with Run(folder, size) as whole:
                began = time.monotonic()
                whole.wait_until_it_trains()
                trains_at = time.monotonic()
                whole.finish()
                spans = trains_at - began, time.monotonic() - trains_at
            found[size] = contents(folder), spans
        return found[size]

    return run


def kill_once_and_go_on(undisturbed, folder, size, seed):
    """Most moments lie between the first checkpoint and the end, some before the first."""
    (weights, rows), (starts, trains) = undisturbed(size)
    generator = random.Random(seed)
    with Run(folder, size) as run:
        if generator.random() < 0.15:
            time.sleep(generator.uniform(0, starts))
        else:
            run.wait_until_it_trains()
            time.sleep(generator.uniform(0, trains))
        if not run.has_ended():
            run.kill(generator)
    assert_nothing_is_half_written(folder)
    with Run(folder, size) as run:
        run.finish()
    again, same_rows = contents(folder)
    for ours, others in zip(weights, again, strict=True):
        np.testing.assert_array_equal(ours, others)
    assert rows == same_rows
    assert not [path for path in folder.rglob("*") if path.name.startswith(".tmp-")]
    assert not list(folder.rglob("*.damaged"))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_at_a_random_moment_goes_on_to_the_same_end(undisturbed, tmp_path, seed):
    kill_once_and_go_on(undisturbed, tmp_path / "run", 1, seed)


@pytest.mark.study
@pytest.mark.parametrize("seed", range(100, 120))
@pytest.mark.parametrize("size", [1, 2])
def test_kills_at_twenty_random_moments_all_lead_to_the_same_end(undisturbed, tmp_path, size, seed):
    kill_once_and_go_on(undisturbed, tmp_path / "run", size, seed)
