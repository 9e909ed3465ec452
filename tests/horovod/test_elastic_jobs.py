"""Elastic jobs whose workers are killed, or joined by another, while they train."""

import os
import pathlib
import random
import signal
import sys
import time

import numpy as np
import pytest

from tests import workers
from tests.horovod import elastic_script, elastic_training

SCRIPT = elastic_training.__file__


def _wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError("the job did not come to the point that the test waits for")


def _elastic_job(folder, hosts, meanwhile, script=SCRIPT, pauses=(0.1, 0.1)):
    """Runs the script elastically; `meanwhile(steps)` does harm, `steps()` lists what was done."""
    folder = pathlib.Path(folder)
    (folder / "hosts").write_text("".join(f"{host}:1\n" for host in hosts))
    discovery, log = folder / "discover.sh", folder / "steps"
    discovery.write_text(f"#!/bin/sh\ncat {folder / 'hosts'}\n")
    discovery.chmod(0o755)
    log.mkdir()

    def steps():
        lines = {path.name: path.read_text().split("\n")[:-1] for path in log.iterdir()}
        return {
            int(pid): [tuple(map(int, line.split())) for line in own] for pid, own in lines.items()
        }

    options = ["--min-np", 1, "--max-np", 2, "--network-interfaces", "lo"]
    options += ["--blacklist-cooldown-range", 2, 4, "--host-discovery-script", discovery]
    job = workers.horovodrun(
        [sys.executable, script, log, *pauses],
        len(hosts),
        options=[str(option) for option in options],
        meanwhile=lambda pid: meanwhile(steps),
    )
    return job, steps()


def _undisturbed():
    model = elastic_training.make_model(elastic_training.optimizer())
    model.fit(elastic_training.batches(0), verbose=0)
    return elastic_training.weights(model)


def _check_results(job):
    """Every worker that got to the end made each update once."""
    expected, updates = _undisturbed(), elastic_training.STEPS * elastic_training.EPOCHS
    assert job.reports
    for iterations, _, epoch, batch, weights in job.results():
        assert (iterations, epoch, batch) == (updates, elastic_training.EPOCHS, 0)
        assert np.allclose(weights, expected, rtol=0, atol=1e-6)


def _kill_once(folder, seed):
    """Kills a random worker at a random moment of the training."""
    generator = random.Random(seed)
    rank = generator.randrange(2)
    duration = generator.uniform(0, 0.08 * elastic_training.STEPS * elastic_training.EPOCHS)
    killed = []

    def kill(steps):
        done = _wait_for(lambda: len(steps()) == 2 and steps())
        time.sleep(duration)
        (pid,) = [pid for pid, lines in done.items() if lines and lines[0][0] == rank] or [0]
        os.kill(pid or max(done), signal.SIGKILL)
        killed.append(pid or max(done))

    job, steps = _elastic_job(folder, ["localhost", "127.0.0.1"], kill)
    assert len(steps[killed[0]]) < elastic_training.STEPS * elastic_training.EPOCHS
    _check_results(job)
    return job


@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_goes_on_to_the_same_weights_after_a_worker_is_killed(seed, tmp_path):
    _kill_once(tmp_path, seed)


@pytest.mark.study
@pytest.mark.parametrize("seed", range(100, 120))
def test_kills_at_twenty_random_moments_all_lead_to_the_same_weights(seed, tmp_path):
    _kill_once(tmp_path, seed)


def test_a_worker_that_joins_takes_over_the_state_and_takes_part(tmp_path):
    hosts = tmp_path / "hosts"

    def add_a_host(steps):
        _wait_for(lambda: any(len(lines) >= 3 for lines in steps().values()))
        hosts.write_text("localhost:1\n127.0.0.1:1\n")

    # Alone, the first worker is slow enough for the second to start before it is done.
    job, steps = _elastic_job(tmp_path, ["localhost"], add_a_host, pauses=(0.1, 2.0))
    _check_results(job)
    assert len(steps) == 2
    first, second = sorted(steps.values(), key=len, reverse=True)
    assert first[0][:2] == (0, 1) and first[-1][1] == 2
    assert {size for _, size, _, _ in second} == {2}
    assert len(job.results()) == 2
    assert [step[2:] for step in first][-len(second) :] == [step[2:] for step in second]


def test_a_script_that_fits_before_the_job_and_at_a_reset_goes_on_after_a_kill(tmp_path):
    def kill(steps):
        done = _wait_for(
            lambda: len(steps()) == 2 and min(map(len, steps().values())) > 5 and steps()
        )
        (pid,) = [pid for pid, lines in done.items() if lines[0][0] == 1]
        os.kill(pid, signal.SIGKILL)

    job, _ = _elastic_job(
        tmp_path, ["localhost", "127.0.0.1"], kill, elastic_script.__file__, pauses=(0.1,)
    )
    first, *others = job.results()
    size, epoch, batch, rate, weights = first
    assert (epoch, batch) == (elastic_script.EPOCHS, 0)
    assert rate == pytest.approx(elastic_script.RATE * size)
    assert all(np.isfinite(np.ravel(weight)).all() for weight in weights)
    assert all(other == first for other in others)
