"""What the studies share: resumable runs kept as JSON with what made them, and their means."""

import fcntl
import functools
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from importlib import metadata

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = pathlib.Path(__file__).parent / "results"
IMAGES = ROOT / "docs" / "images"


class Missing(KeyError):
    """A run that was not made."""


class Runs:
    """Finished runs by name in one JSON file: a study that is started again skips them.

    The file holds `runs`, each with what the study measured and `made`, the number of an entry in
    `makers`: machine, versions of the packages, commit, command and date of the process that ran
    it. `cpu_seconds` is what a run cost in processor time, for the estimate of what is to come; it
    is no measurement of speed. Several processes may add runs to the same file.
    """

    def __init__(self, study, folder=RESULTS):
        self.path = pathlib.Path(folder) / f"{study}.json"
        self._read()

    def get(self, name, run=None):
        """The result named `name`, from the file or from `run()`.

        Raises:
            Missing: it is not in the file and there is no `run`.
        """
        if name not in self.found:
            if run is None:
                raise Missing(f"{self.path.name} holds no run {name!r}: start its study.")
            begin = time.process_time()
            result = run()
            result["cpu_seconds"] = round(time.process_time() - begin, 2)
            self._keep(name, rounded(result))
            print(name, self.found[name], flush=True)
        return self.found[name]

    def cpu_seconds(self):
        """The mean processor time of a finished run; None before the first."""
        known = [run["cpu_seconds"] for run in self.found.values() if "cpu_seconds" in run]
        return sum(known) / len(known) if known else None

    def _read(self):
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.found, self.makers = kept.get("runs", {}), kept.get("makers", [])

    def _keep(self, name, result):
        """Adds a run to what the file holds by now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._read()
            if maker() not in self.makers:
                self.makers.append(maker())
            self.found[name] = result | {"made": self.makers.index(maker())}
            self._write()
        finally:
            os.close(folder)

    def _write(self):
        """The whole file at once: an interruption leaves the old one."""
        lines = [f"  {json.dumps(name)}: {json.dumps(run)}" for name, run in self.found.items()]
        makers = [f"  {json.dumps(maker, sort_keys=True)}" for maker in self.makers]
        text = (
            '{\n "makers": [\n' + ",\n".join(makers) + "\n ],\n"
            ' "runs": {\n' + ",\n".join(lines) + "\n }\n}\n"
        )
        whole = self.path.with_suffix(".part")
        whole.write_text(text)
        whole.replace(self.path)


@functools.cache
def maker():
    """What a result depends on beside its settings, found once in a process."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    module = sys.modules["__main__"].__spec__
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
        | {"python": platform.python_version()},
        "commit": commit.stdout.strip() or "unknown",
        "command": re.sub(
            r"(--mnist[= ])\S+",
            r"\1FOLDER",
            " ".join(["python -m", module.name if module else "?", *sys.argv[1:]]),
        ),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def rounded(value):
    """Floats to six significant digits, and None for what is not finite, as JSON knows none."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def mean_and_error(values):
    """The mean and its standard error."""
    values = np.asarray(values, float)
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def in_words(seconds):
    """A time in words."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
