"""The set-up script: what it says when something is missing, and that it goes on after a stop."""

import collections
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / ".venv")
    monkeypatch.setattr(module, "STEPS", tmp_path / ".venv" / "steps")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    return module


def test_an_unsupported_python_is_named_with_the_way_to_choose_another(bootstrap, monkeypatch):
    version = collections.namedtuple("version", "major minor")(3, 9)
    monkeypatch.setattr(bootstrap.sys, "version_info", version)
    with pytest.raises(bootstrap.SetupError, match=r"not supported: 3\.11.*make PYTHON="):
        bootstrap.check_machine()


def test_a_nearly_full_disk_is_found_before_the_downloads(bootstrap, monkeypatch):
    usage = shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(bootstrap.SetupError, match=r"0\.9 GiB free .* needs 6 GiB"):
        bootstrap.check_machine()


def test_a_missing_compiler_is_found_before_the_downloads(bootstrap, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(bootstrap.SetupError, match="Install g\\+\\+"):
        bootstrap.check_compiler()


def test_an_environment_of_somebody_else_is_left_alone(bootstrap):
    bootstrap.ENVIRONMENT.mkdir()
    (bootstrap.ENVIRONMENT / "precious").touch()
    with pytest.raises(bootstrap.SetupError, match="Move it away"):
        bootstrap.make_environment()
    assert (bootstrap.ENVIRONMENT / "precious").exists()


def test_a_step_runs_once_for_the_same_inputs_and_again_for_others_or_after_a_failure(bootstrap):
    bootstrap.STEPS.mkdir(parents=True)
    calls = []

    def failing():
        calls.append("failed")
        raise bootstrap.SetupError("no")

    with pytest.raises(bootstrap.SetupError):
        bootstrap.step("a", "1", failing, "a")
    bootstrap.step("a", "1", lambda: calls.append("first"), "a")
    bootstrap.step("a", "1", lambda: calls.append("never"), "a")
    bootstrap.step("a", "2", lambda: calls.append("second"), "a")
    assert calls == ["failed", "first", "second"]


def test_an_unreachable_index_is_explained(tmp_path):
    for name in ("tools/bootstrap.py", "setup.py", "requirements.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }
    result = subprocess.run(
        [sys.executable, tmp_path / "tools" / "bootstrap.py"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "index could not be reached" in result.stderr and "PIP_INDEX_URL" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_on_the_way_is_answered_without_a_traceback(bootstrap, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bootstrap.venv, "create", full)
    with pytest.raises(SystemExit, match=r"The disk is full\. Free about 6 GiB"):
        bootstrap.main([])


def test_a_compiler_behind_a_wrapper_counts(bootstrap, monkeypatch, tmp_path):
    (tmp_path / "ccache").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "ccache g++")
    bootstrap.check_compiler()
