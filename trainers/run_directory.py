"""The folder of a run: what was asked for, where it ran, what came out. Rank 0 writes."""

import dataclasses
import fcntl
import json
import os
import pathlib
import platform
import shlex
import socket
import subprocess
import sys
import time
from importlib import metadata

from trainers.config import TrainConfig
from trainers.errors import ConfigError
from trainers.flags import to_flags

_PACKAGES = ("tf_lars", "tensorflow", "keras", "numpy", "horovod")
# What may differ between two starts of one run.
_SAME_RUN = (
    *("run_dir", "elastic", "progress"),
    *("checkpoint_every", "keep_checkpoints", "layer_report_every"),
)
_LOCK_SECONDS = 10.0  # for a writer that is being ended: horovodrun kills after five


class WriteError(OSError):
    """A file of a run cannot be written; what was written before is whole."""


def default_folder(config):
    """runs/DATASET_MODEL_OPTIMIZER_bBATCH, the seed behind it unless it is 0."""
    name = f"{config.dataset}_{config.model}_{config.optimizer}_b{config.global_batch_size}"
    return f"runs/{name}_seed{config.seed}" if config.seed else f"runs/{name}"


class RunDirectory:
    """Reads and writes the files of one run.

    Args:
        folder: path; made by `open`.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._lock = None

    def path(self, name):
        return self.folder / name

    def open(self, config, plan):
        """Makes the folder and writes what is known before training; nobody else may until `close`.

        A finished run is left as it is. A run that goes on keeps the settings of its first start,
        and environment.json gets one more entry under "starts". One that has come to nothing yet,
        no checkpoint and no epoch, may be started with other settings.

        Returns:
            The summary if the run is finished, None otherwise.

        Raises:
            ConfigError: the folder holds another run, cannot be read or written, or is written by
                another process.
        """
        try:
            begun, summary = self._state(config)
            if summary is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._hold()
                begun, summary = self._state(config)  # another process may have written till now
            if summary is not None:
                return summary
            self._remove_unfinished()
            starts = (self._read_json("environment.json") or {"starts": []})["starts"]
            starts.append(environment(plan.world_size))
            self.write_json("environment.json", {"starts": starts})
            if not begun:
                self.write_text("flags.txt", _flags_file(config, plan.world_size))
                values = {"config": dataclasses.asdict(config), "derived": dataclasses.asdict(plan)}
                self.write_json("config.json", values)  # the last: it says that the run has begun
            return None
        except OSError as error:
            raise ConfigError(f"--run_dir={self.folder} cannot be written: {error}") from error

    def close(self):
        """Lets others write into the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _hold(self):
        """Takes the lock, which ends with the process at the latest; see `open`."""
        self._lock = self.path(".lock").open("a")
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.close()
                    raise ConfigError(
                        f"--run_dir={self.folder} is being written by another process: the same "
                        "run, started before, goes on. Wait for it, or give another --run_dir."
                    ) from None
            except OSError:
                return None  # a file system without locks
            time.sleep(0.1)

    def summary(self):
        """The summary of a finished run, None of one that is not."""
        return self._read_json("summary.json")

    def config(self):
        """The TrainConfig of the run that the folder holds, None without one."""
        settings = self._settings()
        if settings is None:
            return None
        values = settings["config"]
        if values.get("lr_milestones") is not None:
            values["lr_milestones"] = tuple(values["lr_milestones"])
        try:
            return TrainConfig(**values)
        except TypeError as error:  # an option that this version does not know, or misses
            raise ConfigError(f"{self.path('config.json')} cannot be used: {error}") from error

    def plan(self):
        """The derived numbers of the run that the folder holds, a dict; None without one."""
        settings = self._settings()
        return settings and settings["derived"]

    def metrics(self):
        """The rows of metrics.jsonl, none without it."""
        path = self.path("metrics.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def write_json(self, name, value):
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name, text):
        self.write(name, lambda path: path.write_text(text))

    def write_metrics(self, rows):
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, name, writer):
        """Has `writer(path)` write a temporary file, which then takes the place of `name` at once.

        The suffix stays, since writers of models and pictures go by it.
        """
        target = self.path(name)
        temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
        try:
            writer(temporary)
            _flush(temporary)
            temporary.replace(target)
            _flush(target.parent)  # the new name, too
        except OSError as error:
            raise WriteError(
                f"{target} cannot be written: {error.strerror or error}. What was written before "
                "is whole: make room, and the same command goes on from there."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _read_json(self, name):
        try:
            return json.loads(self.path(name).read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(
                f"--run_dir={self.folder} cannot be used: its {name} cannot be read ({error}). "
                "Give another --run_dir, or remove that folder."
            ) from error

    def _settings(self):
        """The content of config.json, None without it."""
        settings = self._read_json("config.json")
        if settings is None:
            return None
        parts = settings if isinstance(settings, dict) else {}
        if not all(isinstance(parts.get(part), dict) for part in ("config", "derived")):
            raise ConfigError(
                f"--run_dir={self.folder} holds something else: its config.json was not written "
                "by trainers.train. Give another --run_dir."
            )
        return settings

    def _remove_unfinished(self):
        """Removes what a writer that was killed has left behind: see `write`."""
        for pattern in (".tmp-[0-9]*-*", "checkpoints/.tmp-[0-9]*-*"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _state(self, config):
        """(whether the folder holds this run already, its summary if it is finished)."""
        before, summary = self._settings(), self.summary()
        checkpoints = self.path("checkpoints").glob("update-*.npz")
        if before is None or not (summary or self.metrics() or any(checkpoints)):
            return False, summary
        now = json.loads(json.dumps(dataclasses.asdict(config)))
        changed = [
            f"--{name} was {before['config'].get(name)}, now {value}"
            for name, value in now.items()
            if name not in _SAME_RUN and before["config"].get(name) != value
        ]
        if changed:
            raise ConfigError(
                f"--run_dir={self.folder} holds another run: {'; '.join(changed)}. "
                "Give another --run_dir, or remove that folder."
            )
        return True, summary


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def best_update(rows):
    """The number of updates after which the test accuracy was best, the first of equals; or 0."""
    evaluated = [row for row in rows if row.get("val_top1") is not None]
    return max(evaluated, key=lambda row: row["val_top1"])["updates"] if evaluated else 0


def environment(world_size):
    """Where a run takes place: code, versions, devices, workers."""
    import tensorflow as tf

    devices = [
        {"type": device.device_type, **tf.config.experimental.get_device_details(device)}
        for device in tf.config.get_visible_devices()
    ]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join([sys.executable, *sys.orig_argv[1:]]),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu_cores": os.cpu_count(),
        "devices": devices,
        "world_size": world_size,
    }


def _flags_file(config, world_size):
    launcher = f"horovodrun -np {world_size} " if world_size > 1 else ""
    return "\n".join(
        [
            "# Runs this again:",
            f"#   {launcher}python -m trainers.train --flagfile=flags.txt --run_dir=ANOTHER",
            *to_flags(config),
            "",
        ]
    )


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*command):
    """What git says about this code; None where it is not a git checkout."""
    try:
        return subprocess.run(
            ["git", "-C", str(pathlib.Path(__file__).parent), *command],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
