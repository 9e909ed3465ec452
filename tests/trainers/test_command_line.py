"""The command as it is typed, alone and behind horovodrun."""

import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import workers

CONFIG = f"--flagfile={workers.ROOT / 'configs' / 'digits_resnet20_lars_b512.flags'}"
TRAIN = [sys.executable, "-m", "trainers.train", CONFIG]


def alone(*arguments):
    return subprocess.run(
        [*TRAIN, *arguments],
        capture_output=True,
        text=True,
        cwd=workers.ROOT,
        env=workers.environment({"TF_CPP_MIN_LOG_LEVEL": "2"}),
    )


SHORT = ["--epochs=2", "--warmup_epochs=1", "--eval_every=1"]


def on_two_workers(folder, launcher=workers.HOROVODRUN):
    command = [*TRAIN, *SHORT, f"--run_dir={folder}"]
    return workers.horovodrun(command, 2, env={"TF_CPP_MIN_LOG_LEVEL": "2"}, launcher=launcher)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "two"
    return folder, on_two_workers(folder)


def lines_of(output, rank, stream="stdout"):
    return re.findall(rf"^\[{rank}\]<{stream}>:(.*)$", output, re.MULTILINE)


def starts_of(folder):
    return json.loads((folder / "environment.json").read_text())["starts"]


def test_two_workers_end_with_identical_weights(two_workers):
    _, job = two_workers
    assert "The weights are identical on all 2 workers" in lines_of(job.output, 0)


def test_rank_0_alone_speaks_and_ends_with_the_accuracy(two_workers):
    folder, job = two_workers
    lines = lines_of(job.output, 0)
    accuracy = json.loads((folder / "summary.json").read_text())["final_top1"]
    assert [line.split()[:2] for line in lines if line.startswith("epoch")] == [
        ["epoch", "1/2"],
        ["epoch", "2/2"],
    ]
    assert lines[-2] == f"Curves: {folder / 'curves.png'}"
    assert lines[-1].startswith(f"Top-1 on the test images: {accuracy:.2%}")
    assert lines_of(job.output, 1) == []


def test_the_workers_print_no_tensorflow_chatter(two_workers):
    _, job = two_workers
    assert [lines_of(job.output, rank, "stderr") for rank in (0, 1)] == [[], []]


def test_the_run_directory_knows_of_two_workers(two_workers):
    folder, _ = two_workers
    assert starts_of(folder)[0]["world_size"] == 2
    derived = json.loads((folder / "config.json").read_text())["derived"]
    assert (derived["local_batch_size"], derived["steps_per_epoch"]) == (256, 3)
    assert "horovodrun -np 2" in (folder / "flags.txt").read_text()


KILLED_AFTER_ITS_FIRST_CHECKPOINT = """
    import os, signal
    from trainers import checkpoints, train

    save = checkpoints.Checkpoints.save

    def save_and_die(self, epoch, progress):
        save(self, epoch, progress)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.Checkpoints.save = save_and_die
    train.main()
"""


def test_two_workers_killed_after_a_checkpoint_go_on_to_the_same_weights(two_workers, tmp_path):
    quick = workers.QUICK_LAUNCHER
    killed = workers.run_script(
        KILLED_AFTER_ITS_FIRST_CHECKPOINT,
        2,
        *(CONFIG, *SHORT, f"--run_dir={tmp_path}"),
        launcher=quick,
        check=False,
    )
    assert killed.returncode != 0 and not (tmp_path / "summary.json").exists()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch-00001.npz"]
    resumed = on_two_workers(tmp_path, quick)
    assert "Going on after epoch 1" in lines_of(resumed.output, 0)
    assert "The weights are identical on all 2 workers" in lines_of(resumed.output, 0)
    whole, again = (
        keras.models.load_model(folder / "final.keras").get_weights()
        for folder in (two_workers[0], tmp_path)
    )
    for ours, others in zip(whole, again, strict=True):
        np.testing.assert_array_equal(ours, others)
    assert [start["world_size"] for start in starts_of(tmp_path)] == [2, 2]


def test_bad_settings_are_answered_once_by_all_workers_together(tmp_path):
    job = workers.horovodrun([*TRAIN, "--model=resnet21"], 2, check=False)
    assert job.returncode != 0
    assert job.output.count("--model=resnet21 is unknown") == 1
    assert "[0]<stderr>:trainers.train: --model=resnet21 is unknown" in job.output
    assert "[1]<stderr>:Traceback" not in job.output
    assert "[0]<stderr>:Traceback" not in job.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer=lasr"], "--optimizer=lasr is unknown. Did you mean lars"),
        (["--epochs=-1"], "--epochs must be at least 1; got -1"),
        (["--global_batch_size=1438"], "must be at most the 1437 training examples"),
    ],
)
def test_bad_settings_end_with_one_line_and_exit_code_2(tmp_path, arguments, message):
    done = alone(f"--run_dir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stdout == "" and not (tmp_path / "run").exists()


def test_evaluate_finds_the_accuracy_of_the_summary_again(two_workers):
    folder, _ = two_workers
    done = subprocess.run(
        [sys.executable, "-m", "trainers.evaluate", f"--run_dir={folder}"],
        capture_output=True,
        text=True,
        cwd=workers.ROOT,
        env=workers.environment({"TF_CPP_MIN_LOG_LEVEL": "2"}),
    )
    accuracy = json.loads((folder / "summary.json").read_text())["final_top1"]
    assert f"Top-1 on 360 test images: {accuracy:.2%}" in done.stdout, done.stderr
