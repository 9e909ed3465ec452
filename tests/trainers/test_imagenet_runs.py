"""ImageNet from its tars to an evaluated network: two workers, killed on the way and started again.

The recipes are the published ones, with small images, batches and numbers of epochs.
"""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import workers
from tests.trainers.jpegs import imagenet_tars
from trainers.network import load_network

RUNS = {
    "resnet50": ("resnet50_imagenet_lars_512", 32, 0.15),
    "alexnet": ("alexnet_imagenet_lars_paper_512", 67, 1),
}
EPOCHS = 3


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with the two tars where a user puts them; the first run prepares them."""
    folder = tmp_path_factory.mktemp("imagenet")
    imagenet_tars(folder / "downloads" / "manual")
    return folder


def start(model, run_dir, data_dir, meanwhile=None):
    recipe, side, warmup = RUNS[model]
    command = [
        *(sys.executable, "-m", "trainers.train", f"--flagfile=configs/{recipe}.flags"),
        *(f"--data_dir={data_dir}", f"--run_dir={run_dir}", f"--image_size={side}"),
        *("--global_batch_size=4", f"--epochs={EPOCHS}", f"--warmup_epochs={warmup}"),
        *("--learning_rate=0.5", "--eval_every=1", "--precise_bn_examples=4"),
    ]
    options = {"launcher": workers.QUICK_LAUNCHER, "timeout": 400}  # checkpoints of 200 MB
    return workers.horovodrun(command, check=meanwhile is None, meanwhile=meanwhile, **options)


def kill_after_a_checkpoint(run_dir):
    def kill(pid):
        until = time.monotonic() + 300
        while not list(run_dir.glob("checkpoints/update-*.npz")) and time.monotonic() < until:
            time.sleep(0.05)
        workers.kill_tree(pid)

    return kill


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", RUNS)
def test_a_killed_run_on_imagenet_goes_on_to_an_evaluated_network(model, data_dir, tmp_path):
    run_dir = tmp_path / "run"
    start(model, run_dir, data_dir, kill_after_a_checkpoint(run_dir))
    assert (data_dir / "imagenet2012").is_dir()
    assert not (run_dir / "summary.json").exists(), "the kill came after the end"
    before = rows(run_dir)
    job = start(model, run_dir, data_dir)
    assert "Going on" in job.output
    assert "The weights are identical on all 2 workers" in job.output
    done = rows(run_dir)
    assert [row["epoch"] for row in done] == list(range(1, EPOCHS + 1))
    sure = len(before) - 1  # the last row may have come after the checkpoint
    assert [row["val_loss"] for row in done[:sure]] == [row["val_loss"] for row in before[:sure]]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["updates"] == 3 * EPOCHS and not summary["diverged"]
    network = load_network(run_dir / "final.keras")
    assert network.output_shape == (None, 1000)
    assert all(np.isfinite(weight).all() for weight in network.get_weights())
    # the command that evaluates a run counts the 7 test images, as the run did
    done = subprocess.run(
        [sys.executable, "-m", "trainers.evaluate", f"--run_dir={run_dir}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=workers.ROOT,
        env=workers.environment(),
    )
    found = re.search(r"Top-1 on 7 test images: ([\d.]+)%, top-5 ([\d.]+)%", done.stdout)
    assert float(found[1]) == pytest.approx(100 * summary["final_top1"], abs=0.01)
    assert float(found[2]) == pytest.approx(100 * summary["final_top5"], abs=0.01)
