"""Elastic runs whose workers are killed, or joined by others, while they train."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests import workers
from tests.trainers import elastic_run

FLAGS = [
    *("--dataset=digits", "--model=tiny", "--global_batch_size=96", "--epochs=4"),
    *("--optimizer=sgd", "--momentum=0.9", "--learning_rate=0.05", "--warmup_epochs=1"),
    *("--eval_every=2", "--precise_bn_examples=0", "--checkpoint_every=7"),
]
UPDATES = 60  # 15 an epoch
EXACT = ("epoch", "updates", "batch_size", "learning_rate")


class Run:
    """An elastic run on this machine, whose names stand for hosts of so many workers each."""

    def __init__(self, folder, hosts=("localhost:1", "127.0.0.1:1"), killed="", pause=0.05):
        self.folder, self.hosts, self.log = folder / "run", folder / "hosts", folder / "updates"
        self.log.mkdir()
        self.workers = sum(int(host.partition(":")[2]) for host in hosts)
        self.set_hosts(*hosts)
        self.env = {elastic_run.LOG: self.log, elastic_run.PAUSE: pause}
        self.env[elastic_run.KILLED] = killed and f"{killed} {folder / 'killed'}"
        self.discovery = folder / "hosts.sh"
        self.discovery.write_text(f"#!/bin/sh\ncat {self.hosts}\n")
        self.discovery.chmod(0o755)

    def set_hosts(self, *hosts):
        part = self.hosts.with_suffix(".new")
        part.write_text("\n".join(hosts))
        part.replace(self.hosts)

    def job(self, *flags, meanwhile=None, options=(), **keywords):
        """Runs it to the end under horovodrun."""
        command = [sys.executable, "-m", "tests.trainers.elastic_run", *FLAGS, *flags]
        elastic = ["--min-np", "1", "--max-np", "3", "--network-interfaces", "lo"]
        return workers.horovodrun(
            [*command, "--elastic", f"--run_dir={self.folder}"],
            self.workers,
            options=[*elastic, "--host-discovery-script", str(self.discovery), *options],
            env=self.env,
            meanwhile=meanwhile,
            **keywords,
        )

    def updates(self):
        """{process: [(rank, size, update), …]} so far."""
        return {
            int(file.name): [tuple(map(int, line.split())) for line in _whole_lines(file)]
            for file in self.log.iterdir()
        }

    def sizes(self):
        """{update: numbers of workers with which it was made}."""
        found = {}
        for lines in self.updates().values():
            for _, size, update in lines:
                found.setdefault(update, set()).add(size)
        return found

    def wait_for(self, condition, seconds=300):
        """Waits until `condition(updates of all processes)`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition(self.updates()):
                return
            time.sleep(0.02)
        raise TimeoutError("the run did not come to the point that the test waits for")


def _whole_lines(file):
    return file.read_text().split("\n")[:-1]


def results(folder):
    """(final weights, rows, summary) of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = keras.models.load_model(folder / "final.keras").get_weights()
    return weights, rows, json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What one worker alone, in a job that is not elastic, comes to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    environment = {elastic_run.LOG: folder, elastic_run.PAUSE: 0}
    subprocess.run(
        [sys.executable, "-m", "tests.trainers.elastic_run", *FLAGS, f"--run_dir={folder / 'run'}"],
        env=workers.environment(environment),
        cwd=workers.ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return results(folder / "run")


def assert_as_undisturbed(run, undisturbed):
    """The same examples at the same rates: all that differs is how sums are rounded."""
    (weights, rows, summary), (expected, their_rows, theirs) = results(run.folder), undisturbed
    for ours, others in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, others, rtol=0, atol=1e-5)
    for ours, others in zip(rows, their_rows, strict=True):
        assert ours.keys() == others.keys()
        assert [ours[name] for name in EXACT] == [others[name] for name in EXACT]
        for name in ("loss", "val_loss"):
            if name in others:
                assert ours[name] == pytest.approx(others[name], rel=1e-4)
        assert ours["top1"] == pytest.approx(others["top1"], abs=2 / 1437)
    assert summary["updates"] == theirs["updates"] == UPDATES
    assert summary["final_top1"] == pytest.approx(theirs["final_top1"], abs=1 / 360)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert (run.folder / "curves.png").exists()
    assert not [path for path in run.folder.rglob("*") if path.name.startswith(".tmp-")]


def starts_of(run):
    starts = json.loads((run.folder / "environment.json").read_text())["starts"]
    return [start["world_size"] for start in starts]


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.study)])
def test_a_run_goes_on_when_a_worker_is_killed_in_mid_epoch(undisturbed, tmp_path, rank):
    run = Run(tmp_path, killed=f"{rank} 25")
    job = run.job()
    assert (tmp_path / "killed").exists()
    assert "Going on after update 21 of 60, with 1 workers in place of 2" in job.output
    assert_as_undisturbed(run, undisturbed)
    assert starts_of(run) == [2, 1]
    assert all(1 in sizes for update, sizes in run.sizes().items() if update > 25)


def test_a_worker_that_joins_takes_part_from_exactly_where_the_run_was(undisturbed, tmp_path):
    run = Run(tmp_path, hosts=["localhost:1"], pause=0.2)

    def join(pid):
        run.wait_for(lambda updates: any(len(lines) > 9 for lines in updates.values()))
        run.set_hosts("localhost:1", "127.0.0.1:1")

    run.job(meanwhile=join)
    assert_as_undisturbed(run, undisturbed)
    assert starts_of(run) == [1, 2]
    first, second = sorted(run.updates().values(), key=len, reverse=True)
    assert [update for _, _, update in first] == list(range(1, UPDATES + 1))  # none made twice
    assert second == [(1, 2, update) for _, size, update in first if size == 2]


def test_sigterm_to_an_elastic_job_ends_it_with_75_after_a_checkpoint(undisturbed, tmp_path):
    run = Run(tmp_path, pause=0.2)

    def stop(pid):
        run.wait_for(lambda updates: any(len(lines) > 9 for lines in updates.values()))
        for worker in run.updates():
            os.kill(worker, signal.SIGTERM)

    stopped = run.job(meanwhile=stop, check=False, launcher=workers.QUICK_LAUNCHER)
    assert stopped.returncode == 75, stopped.output
    update = int(re.search(r"Stopped by SIGTERM after update (\d+) of 60", stopped.output)[1])
    assert (run.folder / "checkpoints" / f"update-{update:08}.npz").exists()
    again = run.job(launcher=workers.QUICK_LAUNCHER)
    assert f"Going on after update {update} of 60" in again.output
    assert_as_undisturbed(run, undisturbed)


def test_a_number_of_workers_that_does_not_divide_the_batch_is_named(tmp_path):
    run = Run(tmp_path, hosts=["localhost:3"])
    job = run.job("--global_batch_size=64", check=False, launcher=workers.QUICK_LAUNCHER)
    assert job.returncode == 2, job.output
    message = "--global_batch_size=64 must be divisible by the 3 workers: 63 or 66, say; or start 2"
    assert job.output.count(message) == 1


@pytest.mark.parametrize(
    ("flag", "environment", "message"),
    [
        ("--elastic", {}, "--elastic needs an elastic job: horovodrun -np 2 --min"),
        ("--noelastic", {"HOROVOD_ELASTIC": "1"}, "this is an elastic job .* give --elastic"),
    ],
)
def test_the_flag_and_the_launcher_must_agree(tmp_path, flag, environment, message):
    command = [sys.executable, "-m", "trainers.train", *FLAGS, "--model=resnet20", flag]
    done = subprocess.run(
        [*command, f"--run_dir={tmp_path}"],
        env=workers.environment(environment),
        cwd=workers.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr)


@pytest.mark.study
@pytest.mark.parametrize("seed", range(100, 120))
def test_kills_at_twenty_random_moments_of_workers_that_come_back(undisturbed, tmp_path, seed):
    generator = random.Random(seed)
    run = Run(tmp_path, pause=0.1)

    def kill(pid):
        run.wait_for(lambda updates: len(updates) == 2)
        time.sleep(generator.uniform(0, 6))
        pids = workers.worker_pids(pid)
        os.kill(pids[generator.choice(sorted(pids))], signal.SIGKILL)

    run.job(meanwhile=kill, options=["--blacklist-cooldown-range", "2", "4"])
    assert_as_undisturbed(run, undisturbed)
    assert len(starts_of(run)) >= 2
