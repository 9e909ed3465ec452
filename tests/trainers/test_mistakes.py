"""Mistakes of the first hour that only the files show: one line each, and exit code 2."""

import subprocess
import sys

import pytest

from tests import workers

RECIPE = f"--flagfile={workers.ROOT / 'configs' / 'digits_resnet20_sgd_b32.flags'}"


@pytest.fixture
def folder(tmp_path):
    """Things in the way of a run: a file, a single class, images that are none."""
    (tmp_path / "file").touch()
    (tmp_path / "single" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "single" / "test").mkdir()
    for name in ("train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg", "test/dog/4.jpg"):
        image = tmp_path / "broken" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_text("not an image")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run_dir=file"], "--run_dir=file cannot be written: [Errno 20] Not a directory"),
        (["--model=alexnet"], "--model=alexnet for images of 8×8×1: image_shape must be"),
        (
            ["--dataset=image_folder", "--data_dir=single"],
            "single/train has one class folder, cat: images lie in single/train/CLASS/, of two",
        ),
        (
            ["--dataset=image_folder", "--data_dir=broken", "--global_batch_size=2"],
            "no image of a whole batch can be decoded; warnings above name them and say why",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_line(folder, arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "trainers.train", RECIPE, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=workers.environment({"TF_CPP_MIN_LOG_LEVEL": "2"}),
    )
    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("trainers.train:")]
    assert message in said
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("checkpoint", ["best", "newest", "nowhere.npz"])
def test_a_checkpoint_that_is_not_there_is_answered_without_loading_tensorflow(
    tmp_path, checkpoint
):
    code = f"""
import sys
from trainers import flags, run_directory
from trainers.errors import ConfigError
from trainers.finished import checkpoint_file
try:
    checkpoint_file(run_directory.RunDirectory({str(tmp_path)!r}), {checkpoint!r})
except ConfigError as error:
    print(error)
sys.exit("tensorflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=workers.ROOT
    )
    assert done.returncode == 0, done.stderr
    assert f"--checkpoint={checkpoint} is not there" in done.stdout
