"""The commands that look at runs afterwards."""

import json
import re
import subprocess
import sys
import time

import pytest
from absl.testing import flagsaver

from tests import workers
from tests.trainers.small_runs import config, tiny_network, train
from trainers import evaluate, flags
from trainers.data.digits import digits
from trainers.errors import ConfigError
from trainers.models import MODELS
from trainers.startup import Workers


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
    assert lines[0].endswith("to target") and lines[1].endswith("–")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_report_refuses_a_folder_without_a_run(tmp_path):
    done = command("report", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} holds no run" in done.stderr


def test_evaluate_asks_for_the_folder():
    done = command("evaluate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "trainers.evaluate: --run_dir must be given: the folder of a run.\n"


def test_evaluate_refuses_a_folder_without_a_run(tmp_path):
    done = command("evaluate", f"--run_dir={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--run_dir={tmp_path} holds no run" in done.stderr


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run on the digits that keeps averages, its summary and its rows."""
    from trainers import loop

    folder = tmp_path_factory.mktemp("digits") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", tiny_network)
        settings = config(run_dir=str(folder), ema_momentum=0.9, epochs=3, global_batch_size=200)
        summary = loop.train(settings, digits(), Workers(), time.time())
    return folder, summary


def evaluated(monkeypatch, capsys, *arguments):
    """(top-1, loss) that `trainers.evaluate` prints."""
    monkeypatch.setitem(MODELS, "tiny", tiny_network)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")  # TensorFlow runs already
    with flagsaver.flagsaver():
        flags.parse(["evaluate", *arguments])
        evaluate.evaluate([])
    pattern = r"Top-1 on 360 test images: ([\d.]+)%, top-5 [\d.]+%, loss ([\d.]+)"
    return tuple(map(float, re.search(pattern, capsys.readouterr().out).groups()))


def test_the_end_of_a_run_and_its_checkpoints_are_evaluated(averaged, monkeypatch, capsys):
    folder, summary = averaged
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    end = evaluated(monkeypatch, capsys, f"--run_dir={folder}")
    assert end[0] == pytest.approx(100 * summary["final_top1"], abs=0.006)
    newest = evaluated(monkeypatch, capsys, f"--run_dir={folder}", "--checkpoint=newest")
    assert newest == end
    file = folder / "checkpoints" / f"update-{rows[1]['updates']:08}.npz"
    before = evaluated(monkeypatch, capsys, f"--run_dir={folder}", f"--checkpoint={file}")
    assert before[1] == pytest.approx(rows[1]["val_loss"], abs=1e-3)
    best = evaluated(monkeypatch, capsys, f"--run_dir={folder}", "--checkpoint=best")
    assert best[0] == pytest.approx(100 * summary["best_top1"], abs=0.006)


def test_a_checkpoint_that_is_not_there_or_damaged_is_named(
    averaged, tmp_path, monkeypatch, capsys
):
    folder, _ = averaged
    with pytest.raises(ConfigError, match=r"--checkpoint=last is not there.*update-00000021\.npz"):
        evaluated(monkeypatch, capsys, f"--run_dir={folder}", "--checkpoint=last")
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=f"--checkpoint={bad} is damaged or of another run"):
        evaluated(monkeypatch, capsys, f"--run_dir={folder}", f"--checkpoint={bad}")
