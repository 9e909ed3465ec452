"""What `pip install .` gives, and that the lock file names everything that the tests run with."""

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", folder, source], check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_both_packages_and_every_config(wheel):
    names = wheel.namelist()
    assert "tf_lars/optimizers/lars.py" in names
    assert "trainers/train.py" in names
    configs = {Path(name).name for name in names if name.startswith("trainers/configs/")}
    assert configs >= {path.name for path in (ROOT / "configs").glob("*.flags")}
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_wheel_is_pure_python_and_needs_no_horovod(wheel):
    name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    fields = wheel.read(name).decode().split("\n\n")[0]
    needed = re.findall(r"^Requires-Dist: ([A-Za-z0-9_.-]+)(?![^\n]*extra ==)", fields, re.M)
    assert "tensorflow" in needed and "keras" in needed
    assert "horovod" not in [n.lower() for n in needed]
    assert {"horovod", "gpu", "test", "bench", "docs"} <= set(
        re.findall(r"^Provides-Extra: (\S+)", fields, re.M)
    )
    wheel_file = next(n for n in wheel.namelist() if n.endswith(".dist-info/WHEEL"))
    assert "Root-Is-Purelib: true" in wheel.read(wheel_file).decode()


SCRIPTS = {
    "tf-lars-train": "--global_batch_size",
    "tf-lars-plan": "--batch_per_worker",
    "tf-lars-evaluate": "--checkpoint",
    "tf-lars-report": "--picture",
    "tf-lars-export": "--output",
    "tf-lars-run": "--num-proc",
}


@pytest.mark.parametrize(("script", "flag"), SCRIPTS.items())
def test_a_console_script_of_the_wheel_explains_itself_and_its_flags(wheel, script, flag):
    name = next(n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt"))
    scripts = dict(re.findall(r"^(\S+) = (\S+)$", wheel.read(name).decode(), re.M))
    assert {*SCRIPTS, "tf-lars-build-horovod"} == scripts.keys()
    module, function = scripts[script].split(":")
    # what pip's script does
    code = f"import sys; sys.argv[0] = {script!r}; from {module} import {function} as main"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(main())", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert flag in done.stdout and len(done.stdout.splitlines()) > 5


def requirements_of(name, extras):
    """The names that a distribution asks for, with the given extras, on this machine."""
    from packaging.requirements import Requirement

    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in ("", *extras)]
        marker = requirement.marker
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            yield requirement.name, requirement.extras


def test_the_lock_file_pins_everything_the_set_up_installs_at_the_version_that_runs():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    todo, seen = [("tf-lars", ("horovod", "test"))], set()
    while todo:
        name, extras = todo.pop()
        for required, its_extras in requirements_of(name, extras):
            key = re.sub(r"[-_.]+", "-", required).lower()
            if key not in seen:
                seen.add(key)
                todo.append((required, tuple(its_extras)))
                assert key in pins, f"{required} (needed by {name}) is not in requirements.lock"
                assert metadata.version(required) == pins[key]
    assert len(seen) > 40
