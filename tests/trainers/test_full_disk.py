"""A disk that is full, for real: a small file system in memory that holds the folder of a run."""

import json
import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import workers

FLAGS = [
    *("--dataset=digits", "--model=resnet20", "--global_batch_size=478", "--epochs=4"),
    *("--optimizer=lars", "--learning_rate=1", "--warmup_epochs=1", "--random_shift=1"),
    *("--eval_every=4", "--precise_bn_examples=0", "--checkpoint_every=3", "--progress=none"),
]
# One checkpoint of 2.2 MB fits into 4 MB. Room is made, and the run goes on with the same command.
SCENARIO = """
    mount -t tmpfs -o size=4m tmpfs disk || exit 99
    "$@" --run_dir=disk/run
    echo "code $?"
    cp -r disk/run full
    [ "$GO_ON" ] || exit 0
    mount -o remount,size=64m disk
    "$@" --run_dir=disk/run
    echo "code $?"
    cp -r disk/run done
"""
TRAIN = [sys.executable, "-m", "trainers.train", *FLAGS]


def namespaces():
    """Ways to get a place where file systems can be mounted: as a user, and as root."""
    return [["unshare", "-rm"], *([["unshare", "-m"]] if os.geteuid() == 0 else [])]


def run_on_a_full_disk(folder, command, go_on):
    """What the scenario prints, stdout and stderr together."""
    (folder / "disk").mkdir()
    problems = []
    for namespace in namespaces():
        if shutil.which(namespace[0]) is None:
            problems.append(f"no {namespace[0]}")
            continue
        done = subprocess.run(
            [*namespace, "sh", "-c", SCENARIO, "sh", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=workers.environment({"GO_ON": go_on, "TF_CPP_MIN_LOG_LEVEL": "2"}),
            timeout=300,
        )
        if re.search(r"^code \d+$", done.stdout, re.MULTILINE):
            return done.stdout
        problems.append(f"{' '.join(namespace)}: {done.stdout.strip()}")
    pytest.skip(f"a small file system cannot be mounted: {'; '.join(problems)}")


def codes(output):
    return [int(code) for code in re.findall(r"^code (\d+)$", output, re.MULTILINE)]


def results(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(x).items() if "second" not in k} for x in lines]
    return keras.models.load_model(folder / "final.keras").get_weights(), rows


def assert_one_whole_checkpoint(folder):
    (file,) = (folder / "checkpoints").iterdir()
    assert file.name == "update-00000003.npz"
    with np.load(file) as archive:
        assert len([archive[name] for name in archive.files]) > 50
    assert not [path for path in folder.rglob("*") if path.name.startswith(".tmp-")]


def assert_said_which_file(output):
    (said,) = [line for line in output.splitlines() if "trainers.train:" in line]
    assert "update-00000006.npz cannot be written: No space left on device" in said
    assert "make room, and the same command goes on" in said
    assert "Traceback" not in output


def test_a_run_on_a_full_disk_ends_with_74_and_goes_on_to_the_same_end(tmp_path):
    output = run_on_a_full_disk(tmp_path, TRAIN, go_on="yes")
    assert codes(output) == [74, 0], output
    assert_said_which_file(output)
    assert_one_whole_checkpoint(tmp_path / "full")
    assert "Going on after update 3 of 12" in output
    subprocess.run(
        [*TRAIN, f"--run_dir={tmp_path / 'whole'}"],
        cwd=workers.ROOT,
        env=workers.environment(),
        check=True,
    )
    (weights, rows), (expected, others) = results(tmp_path / "done"), results(tmp_path / "whole")
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert rows == others


def test_two_workers_on_a_full_disk_end_with_74_together(tmp_path):
    command = [*workers.QUICK_LAUNCHER, "--gloo", "-np", "2", *TRAIN]
    output = run_on_a_full_disk(tmp_path, command, go_on="")
    assert codes(output) == [74], output
    assert_said_which_file(output)
    assert_one_whole_checkpoint(tmp_path / "full")
