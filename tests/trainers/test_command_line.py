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
    said, nothing = (lines_of(job.output, rank, "stderr") for rank in (0, 1))
    assert [line.split(":")[0] for line in said] == ["tf_lars"]  # how the gradients are exchanged
    assert nothing == []


def test_the_run_directory_knows_of_two_workers(two_workers):
    folder, _ = two_workers
    assert starts_of(folder)[0]["world_size"] == 2
    derived = json.loads((folder / "config.json").read_text())["derived"]
    assert (derived["local_batch_size"], derived["steps_per_epoch"]) == (256, 3)
    assert "horovodrun -np 2" in (folder / "flags.txt").read_text()


AFTER_AN_UPDATE = """
    import os, signal, sys, time
    from trainers import position, train

    update, name, file = int(sys.argv.pop(1)), sys.argv.pop(1), sys.argv.pop(1)
    count = position.Position.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        count(self, batch, logs)
        if self.update == update:
            while file and not os.path.exists(file):
                time.sleep(0.01)
            if name == "SIGKILL" or os.environ["HOROVOD_RANK"] == "1":
                os.kill(os.getpid(), getattr(signal, name))

    position.Position.on_train_batch_end = on_train_batch_end
    train.main()
"""


def ended_by(signal, folder, update, once=""):
    """A run on two workers that gets a signal after an update, once a file is there."""
    arguments = (update, signal, once, CONFIG, *SHORT, "--checkpoint_every=2")
    return workers.run_script(
        AFTER_AN_UPDATE,
        2,
        *map(str, arguments),
        f"--run_dir={folder}",
        launcher=workers.QUICK_LAUNCHER,
        env={"TF_CPP_MIN_LOG_LEVEL": "2"},
        check=False,
    )


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if "second" not in key}
        for line in lines
    ]


def test_two_workers_killed_in_mid_epoch_go_on_to_the_same_weights(two_workers, tmp_path):
    once = tmp_path / "checkpoints" / "update-00000004.npz"
    killed = ended_by("SIGKILL", tmp_path, 5, once)
    assert killed.returncode != 0 and not (tmp_path / "summary.json").exists()
    resumed = on_two_workers(tmp_path, workers.QUICK_LAUNCHER)
    assert "Going on after update 4 of 6" in lines_of(resumed.output, 0)
    assert "The weights are identical on all 2 workers" in lines_of(resumed.output, 0)
    whole, again = (
        keras.models.load_model(folder / "final.keras").get_weights()
        for folder in (two_workers[0], tmp_path)
    )
    for ours, others in zip(whole, again, strict=True):
        np.testing.assert_array_equal(ours, others)
    assert rows(two_workers[0]) == rows(tmp_path)
    assert [start["world_size"] for start in starts_of(tmp_path)] == [2, 2]


def test_a_signal_to_one_of_two_workers_stops_both_and_one_can_go_on_alone(two_workers, tmp_path):
    stopped = ended_by("SIGUSR1", tmp_path, 1)
    (said,) = [line for line in lines_of(stopped.output, 0) if line.startswith("Stopped by")]
    update = int(re.search(r"after update (\d) of 6", said)[1])
    assert "Traceback" not in stopped.output
    newest = max(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert newest == f"update-{update:08}.npz"
    done = alone(*SHORT, f"--run_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f"Going on after update {update} of 6, with 1 workers in place of 2" in done.stdout
    for ours, others in zip(rows(two_workers[0]), rows(tmp_path), strict=True):
        for exact in ("epoch", "updates", "batch_size", "learning_rate"):
            assert ours[exact] == others[exact]
        assert ours["loss"] == pytest.approx(others["loss"], rel=0.2)


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
