"""Whole runs in one process: what they write, and that they go on where they stopped."""

import json

import keras
import numpy as np
import pytest
from absl.testing import flagsaver

from tests.trainers.small_runs import config, stripes, train
from trainers import flags, loop, recording
from trainers.errors import ConfigError
from trainers.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run directory and its summary."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, train(folder, random_shift=1, eval_every=2)


def final_weights(folder):
    return keras.models.load_model(folder / "final.keras").get_weights()


def assert_equal_weights(one, other):
    for a, b in zip(final_weights(one), final_weights(other), strict=True):
        np.testing.assert_array_equal(a, b)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_down_what_it_was_and_what_came_out(finished):
    folder, summary = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("flags.txt", "config.json", "environment.json", "metrics.jsonl", "summary.json"),
        *("curves.png", "final.keras", "checkpoints", "tensorboard", ".lock"),
    }
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert set(summary) == {
        *("final_top1", "best_top1", "final_top5", "images_per_second", "updates", "epochs"),
        *("target_top1", "seconds_to_target", "epochs_to_target"),
        *("global_batch_size", "world_size", "wall_seconds", "diverged", "divergence"),
    }
    assert (summary["updates"], summary["epochs"], summary["diverged"]) == (12, 4, False)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["config"]["learning_rate"] == 0.1
    assert settings["derived"]["steps_per_epoch"] == 3
    (where,) = json.loads((folder / "environment.json").read_text())["starts"]
    assert where["world_size"] == 1 and where["versions"]["keras"] == keras.__version__
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3, 4]
    assert [("val_top1" in row) for row in rows(folder)] == [False, True, False, True]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "tensorboard").iterdir())


def test_the_saved_model_has_the_accuracy_that_the_summary_says(finished):
    folder, summary = finished
    images, labels = stripes().test
    model = keras.models.load_model(folder / "final.keras")
    assert not model.compiled  # so it loads without the optimizer and without Horovod
    logits = model.predict(images, verbose=0)
    assert np.mean(np.argmax(logits, -1) == labels) == pytest.approx(summary["final_top1"])


def contents(folder):
    """The bytes and the time of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_a_finished_run_is_left_as_it_is(finished, capsys):
    folder, summary = finished
    before = contents(folder)
    assert train(folder, random_shift=1, eval_every=2) == summary
    assert contents(folder) == before
    assert "This run is finished" in capsys.readouterr().out


def test_a_run_that_came_to_nothing_can_be_started_with_other_settings(tmp_path):
    with pytest.raises(ConfigError, match="--model=alexnet for images of 8×8×1: image_shape must"):
        train(tmp_path, model="alexnet")
    assert (tmp_path / "config.json").exists()
    summary = train(tmp_path, epochs=1)
    assert summary["epochs"] == 1
    assert RunDirectory(tmp_path).config().model == "tiny"
    assert "--epochs=1" in (tmp_path / "flags.txt").read_text()


def test_a_directory_with_another_run_is_refused(finished):
    folder, _ = finished
    with pytest.raises(ConfigError) as error:
        train(folder, random_shift=1, eval_every=2, epochs=5, seed=1)
    for part in (f"--run_dir={folder} holds another run", "--epochs was 4, now 5", "--seed was 0"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "its config.json cannot be read"),
        ("config.json", '{"name": "of another program"}', "holds something else"),
        ("config.json", "[]", "holds something else"),
        ("summary.json", "", "its summary.json cannot be read"),
    ],
)
def test_a_directory_whose_files_are_not_of_a_run_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"--run_dir={tmp_path} .*{message}"):
        train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--run_dir=.*file/run cannot be written"):
        train(tmp_path / "file" / "run")


def test_the_flags_file_of_a_run_runs_it_again(finished, tmp_path):
    folder, _ = finished
    with flagsaver.flagsaver():
        flags.parse(["train", f"--flagfile={folder / 'flags.txt'}"])
        again = flags.read_config()
    assert again == config(random_shift=1, eval_every=2)
    train(tmp_path / "again", random_shift=1, eval_every=2)
    assert_equal_weights(folder, tmp_path / "again")


def test_a_write_that_fails_leaves_the_older_file_whole(finished):
    from trainers.run_directory import RunDirectory

    folder, _ = finished
    before = (folder / "config.json").read_text()

    def half(path):
        path.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        RunDirectory(folder).write("config.json", half)
    assert (folder / "config.json").read_text() == before
    assert not list(folder.glob(".tmp-*"))


def test_learning_rates_in_the_metrics_are_those_of_the_schedule(finished):
    folder, _ = finished
    expected = [0.1 * (1 - step / 12) ** 2 for step in (2, 5, 8, 11)]
    assert [row["learning_rate"] for row in rows(folder)] == pytest.approx(expected, rel=1e-5)


def test_epochs_of_one_step_are_measured_but_for_the_one_that_compiled():
    speeds = [{"images_per_second": speed} for speed in (0.0, 100.0, 300.0)]
    assert recording.images_per_second(speeds) == pytest.approx(150)
    assert recording.images_per_second(speeds[:1]) == 0.0


@pytest.mark.parametrize("limit", [0, 2**20])
def test_batches_for_batch_norm_are_the_same_each_time_kept_or_read_again(
    finished, tmp_path, monkeypatch, limit
):
    monkeypatch.setattr(loop, "_CACHED_BYTES", limit)
    train(tmp_path / "run", random_shift=1, eval_every=2)
    assert_equal_weights(finished[0], tmp_path / "run")


def test_seeds_give_different_runs(finished, tmp_path):
    folder, _ = finished
    train(tmp_path / "other", random_shift=1, eval_every=2, seed=1)
    ours, others = final_weights(folder), final_weights(tmp_path / "other")
    assert any(np.any(a != b) for a, b in zip(ours, others, strict=True))
