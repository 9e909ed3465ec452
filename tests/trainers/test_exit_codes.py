"""What a job on two workers ends with: the trainer's code, unless horovodrun hides it."""

import os
import re
import signal
import sys
import time

import pytest

from tests import workers
from tests.trainers import elastic_run

FLAGS = [
    *("--dataset=digits", "--model=tiny", "--global_batch_size=96", "--epochs=4"),
    *("--optimizer=sgd", "--precise_bn_examples=0", "--checkpoint_every=1000"),
]


def on_two_workers(folder, launcher, rate, meanwhile=None):
    """The finished job; `meanwhile(launcher's pid)` is called once both workers train."""
    log = folder / "updates"
    log.mkdir()

    def once_both_train(pid):
        while len(list(log.iterdir())) < 2:
            time.sleep(0.05)
        meanwhile(pid)

    command = [sys.executable, "-m", "tests.trainers.elastic_run", *FLAGS]
    return workers.horovodrun(
        [*command, f"--learning_rate={rate}", f"--run_dir={folder / 'run'}"],
        launcher=launcher,
        env={elastic_run.LOG: log, elastic_run.PAUSE: 0.1},
        check=False,
        meanwhile=meanwhile and once_both_train,
    )


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [
        (workers.QUICK_LAUNCHER, signal.SIGUSR1, 75),
        (workers.HOROVODRUN, signal.SIGTERM, 1),
    ],
)
def test_a_signal_to_the_launcher_ends_the_job_after_a_checkpoint(tmp_path, launcher, number, code):
    job = on_two_workers(tmp_path, launcher, 0.1, lambda pid: os.kill(pid, number))
    assert job.returncode == code, job.output
    # five seconds after a SIGTERM horovodrun kills workers of a busy machine that still end
    assert re.search(r"Exit code: (75|137)$", job.output, re.MULTILINE)
    assert job.output.count(f"Stopped by {number.name} after update") == 1
    (file,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"after update {int(file.stem[7:])} of 60" in job.output


def test_a_job_that_diverges_ends_with_3(tmp_path):
    job = on_two_workers(tmp_path, workers.QUICK_LAUNCHER, 1e30)
    assert job.returncode == 3, job.output
    assert job.output.count("DIVERGED at update") == 1
    assert "Traceback" not in job.output
