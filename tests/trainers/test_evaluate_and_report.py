"""The commands that look at runs afterwards."""

import subprocess
import sys

import pytest

from tests import workers
from tests.trainers.small_runs import tiny_network, train
from trainers.models import MODELS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two run directories."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", tiny_network)
        for name, rate in (("slow", 0.001), ("fast", 0.1)):
            train(folder / name, learning_rate=rate)
    return folder


def command(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"trainers.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=workers.ROOT,
        env=workers.environment({"TF_CPP_MIN_LOG_LEVEL": "2"}),
    )


def test_report_prints_a_row_for_each_run_and_draws_them(runs, tmp_path):
    done = command("report", runs / "slow", runs / "fast", f"--picture={tmp_path / 'x.png'}")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "slow", "fast"], done.stderr
    assert lines[1].split()[1:5] == ["20", "1", "4", "12"]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_report_refuses_a_folder_without_a_run(tmp_path):
    done = command("report", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} holds no run" in done.stderr


def test_evaluate_asks_for_the_folder():
    done = command("evaluate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "trainers.evaluate: --run_dir must be given: the folder of a finished run.\n"
    )


def test_evaluate_refuses_a_folder_without_a_run(tmp_path):
    done = command("evaluate", f"--run_dir={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--run_dir={tmp_path} holds no finished run" in done.stderr
