"""Runs that are stopped, killed or damaged, and go on as if nothing had happened."""

import errno
import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest

from tests.trainers import small_runs
from tests.trainers.small_runs import train
from trainers import checkpoints, loop, position, recording, run_directory
from trainers import train as command
from trainers.derived import derive
from trainers.errors import ConfigError
from trainers.run_directory import RunDirectory, WriteError

PLAIN = {"random_shift": 1, "eval_every": 2, "warmup_epochs": 1.0, "mixup": 0.2}
GROWING = {
    "optimizer": "lars",
    "momentum_rule": "unscaled",
    "random_shift": 1,
    "eval_every": 4,
    "global_batch_size": 10,
    "micro_batch_size": 4,
    "precise_bn_examples": 0,
    "lr_schedule": "step",
    "lr_milestones": (1.5, 3.0),
    "lr_factor": 0.5,
    "grow_batch_factor": 2.0,
    "max_batch_size": 40,
    "noise_scale": True,
}
CLARS = {"optimizer": "clars", "mean_norms": "per_example", "eval_every": 4, "ema_momentum": 0.9}
KINDS = {"plain": PLAIN, "growing": GROWING, "clars": CLARS}


pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function that gives the folder of an undisturbed run of a kind."""
    folders = {}

    def run(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("whole") / kind
            train(folders[kind], **KINDS[kind])
        return folders[kind]

    return run


def final_weights(folder):
    return keras.models.load_model(folder / "final.keras").get_weights()


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def timeless(rows):
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def assert_same_run(one, other):
    """The same weights and the same rows, bit for bit, and nothing half-written."""
    for a, b in zip(final_weights(one), final_weights(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert timeless(rows(one)) == timeless(rows(other))
    assert not [path for path in other.rglob("*") if path.name.startswith(".tmp-")]


def after_update(number, act):
    """Within it `act()` is called right after an update of any run."""
    patch = pytest.MonkeyPatch.context()
    count = position.Position.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        count(self, batch, logs)
        if self.update == number:
            act()

    class Patched:
        def __enter__(self):
            patch.__enter__().setattr(position.Position, "on_train_batch_end", on_train_batch_end)

        def __exit__(self, *error):
            patch.__exit__(*error)

    return Patched()


class Killed(Exception):
    """Stands for what ends a process without a word."""


def die():
    raise Killed


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("kind", "update", "number"),
    [
        ("plain", 5, signal.SIGTERM),
        ("plain", 6, signal.SIGTERM),
        ("growing", 11, signal.SIGUSR1),
        ("growing", 14, signal.SIGUSR1),  # all batches that are left have one size
        ("clars", 4, signal.SIGUSR1),
    ],
)
def test_a_run_stopped_by_a_signal_goes_on_from_that_update_to_the_same_end(
    whole, tmp_path, capsys, kind, update, number
):
    with after_update(update, lambda: os.kill(os.getpid(), number)):
        assert train(tmp_path, **KINDS[kind]) is None
    said = capsys.readouterr().out
    assert f"Stopped by {number.name} after update {update} of" in said
    assert not (tmp_path / "summary.json").exists()
    assert f"update-{update:08}.npz" in names(tmp_path)
    train(tmp_path, **KINDS[kind])
    assert f"Going on after update {update} of" in capsys.readouterr().out
    assert_same_run(whole(kind), tmp_path)


def test_signals_are_heeded_again_as_before_when_a_run_has_ended(whole):
    whole("plain")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run with checkpoints after every other update that ended without a word after its ninth."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    with after_update(9, die), pytest.raises(Killed):
        train(folder, **PLAIN, checkpoint_every="2")
    return folder


def test_the_newest_checkpoints_and_the_best_are_kept(killed, tmp_path):
    assert names(killed) == ["update-00000006.npz", "update-00000008.npz"]
    folder = shutil.copytree(killed, tmp_path / "run")
    train(folder, **PLAIN, checkpoint_every="1", keep_checkpoints=1)
    accuracies = {row["updates"]: row["val_top1"] for row in rows(folder) if "val_top1" in row}
    best = max(accuracies, key=accuracies.get)
    assert names(folder) == sorted({f"update-{update:08}.npz" for update in (best, 12)})


def test_a_killed_run_goes_on_keeps_its_first_settings_and_adds_a_start(whole, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    first = {name: (folder / name).read_bytes() for name in ("config.json", "flags.txt")}
    (before,) = json.loads((folder / "environment.json").read_text())["starts"]
    for name in (".tmp-123-metrics.jsonl", "checkpoints/.tmp-123-update-00000010.npz"):
        (folder / name).write_text("half")
    train(folder, **PLAIN)
    assert {name: (folder / name).read_bytes() for name in first} == first
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert len(starts) == 2 and starts[0] == before
    assert_same_run(whole("plain"), folder)
    seconds = [row["seconds"] for row in rows(folder)]
    assert seconds == sorted(seconds)


def checkpoints_of(folder, workers=None):
    """The Checkpoints of a run in a folder, for a network just built."""
    settings, data = small_runs.config(**PLAIN), small_runs.stripes()
    plan = derive(settings, data.examples("train"), data.examples("test"), 1)
    model, _ = loop.build(settings, plan, data, small_runs.Workers())
    return checkpoints.Checkpoints(
        RunDirectory(folder), model, workers or small_runs.Workers(), keep=2
    )


def restored(folder):
    """The progress that the run in a folder would go on from."""
    return checkpoints_of(folder).restore()


class Alone(small_runs.Workers):
    """One of several workers, whom the others follow."""

    def broadcast(self, value):
        return value or self.given

    def sum(self, vector):
        return vector


def restored_by(rank, size, folder):
    """(moving statistics, metrics) of a worker after a run on two, whose own were 1 and 4."""
    workers = Alone(rank, size)
    these = checkpoints_of(folder, workers)
    own_variables = [*these.moving, *these.model.metrics_variables]
    own = [[np.full(v.shape, value, "float32") for v in own_variables] for value in (1.0, 4.0)]
    shared = [keras.ops.convert_to_numpy(variable) for variable in these.shared]
    stored = checkpoints.Stored({"update": 4, "world_size": 2, "rows": []}, shared, own)
    object.__setattr__(workers, "given", stored)
    these._newest = lambda: stored
    these.restore()
    these.restore_metrics()
    moving = {float(value) for variable in these.moving for value in variable.numpy()}
    return moving, {float(variable.numpy()) for variable in these.model.metrics_variables}


@pytest.mark.parametrize(
    ("rank", "size", "moving", "metric"),
    [(0, 2, 1.0, 1.0), (1, 2, 4.0, 4.0), (0, 3, 2.5, 5.0), (1, 3, 2.5, 0.0), (0, 1, 2.5, 5.0)],
)
def test_workers_get_their_own_back_and_others_the_mean_with_the_metrics_counted_once(
    tmp_path, rank, size, moving, metric
):
    assert restored_by(rank, size, tmp_path) == ({moving}, {metric})


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_checkpoint_is_named_put_aside_and_the_one_before_is_used(
    killed, tmp_path, caplog, damage
):
    folder = shutil.copytree(killed, tmp_path / "run")
    newest = folder / "checkpoints" / "update-00000008.npz"
    data = bytearray(newest.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 400):  # single bytes may be padding
        data[place] ^= 0xFF
    newest.write_bytes({"truncated": data[: len(data) // 2], "changed": data, "empty": b""}[damage])
    assert restored(folder)["update"] == 6
    assert "update-00000008.npz is damaged" in caplog.text
    assert names(folder) == ["update-00000006.npz", "update-00000008.damaged"]


def test_a_run_without_a_whole_checkpoint_begins_anew(killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    for name in names(folder):
        (folder / "checkpoints" / name).write_bytes(b"PK")
    assert restored(folder) is None


def test_a_run_with_a_damaged_checkpoint_ends_as_the_undisturbed_one(whole, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    os.truncate(folder / "checkpoints" / "update-00000008.npz", 1000)
    train(folder, **PLAIN)
    assert_same_run(whole("plain"), folder)


def test_a_run_killed_before_its_summary_writes_it_and_the_network(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_results", lambda *arguments: die())
        with pytest.raises(Killed):
            train(tmp_path, **KINDS["clars"])
    train(tmp_path, **KINDS["clars"])
    assert_same_run(whole("clars"), tmp_path)


def test_a_full_disk_ends_the_run_and_leaves_the_older_checkpoint_whole(
    whole, tmp_path, monkeypatch, capsys
):
    savez = np.savez

    def full(path, **arrays):
        savez(path, **arrays)
        if path.name.endswith("update-00000006.npz"):
            os.truncate(path, 1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.np, "savez", full)
        with pytest.raises(WriteError) as error:
            train(tmp_path, **PLAIN, checkpoint_every="3")
    for part in ("update-00000006.npz cannot be written: No space left", "goes on from there"):
        assert part in str(error.value)
    assert names(tmp_path) == ["update-00000003.npz"]
    train(tmp_path, **PLAIN)
    assert "Going on after update 3 of 12" in capsys.readouterr().out
    assert_same_run(whole("plain"), tmp_path)


def test_the_command_ends_with_a_code_of_its_own_when_a_file_cannot_be_written(monkeypatch, capsys):
    def fail(*arguments):
        raise WriteError("the disk is full")

    monkeypatch.setattr(loop, "train", fail)
    monkeypatch.setattr(command.flags, "read_config", lambda: small_runs.config(model="resnet20"))
    monkeypatch.setattr(command.startup, "start", small_runs.Workers)
    assert command.train([]) == 74
    assert capsys.readouterr().err == "trainers.train: the disk is full\n"


def test_a_folder_that_another_run_writes_is_refused_until_that_one_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "_LOCK_SECONDS", 0.3)
    settings, data = small_runs.config(), small_runs.stripes()
    plan = derive(settings, data.examples("train"), data.examples("test"), 1)
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.open(settings, plan)
    with pytest.raises(ConfigError, match=r"--run_dir=\S+ is being written by another process"):
        second.open(settings, plan)
    first.close()
    second.open(settings, plan)
    second.close()


@pytest.mark.parametrize(("job", "seconds"), [("host:1", 160.0), ("host:2", 60.0), (None, 60.0)])
def test_time_goes_on_between_the_starts_of_one_elastic_job(monkeypatch, tmp_path, job, seconds):
    """Saved after 50 seconds, restored 100 seconds later by a process that is 10 seconds old."""
    monkeypatch.setattr(recording, "elastic_job", lambda: "host:1")
    monkeypatch.setattr(recording.time, "time", lambda: 1110.0)
    recorder = recording.Recorder(None, None, 1100.0, small_runs.Workers(), RunDirectory(tmp_path))
    recorder.set_state({"seconds": 50.0, "until": 1000.0, "job": job})
    assert recorder.seconds() == seconds
    recorder.close()
