"""The build of Horovod says what it finds missing, and leaves nothing half done."""

import importlib.metadata
import io
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import namedtuple

import pytest

from tests import workers
from tf_lars.horovod import build, build_sources, build_tools
from tf_lars.horovod.build_tools import BuildError

MODULE = [sys.executable, "-m", "tf_lars.horovod.build"]


def command(*arguments, **env):
    return subprocess.run(
        [*MODULE, *arguments], capture_output=True, text=True, env=workers.environment(env)
    )


def make_sdist(folder):
    """An archive laid out like Horovod's, with the two files that are mended."""
    path = folder / build.SDIST
    includes = "".join(f'#include "{header}"\n' for header in build_sources._XLA_HEADERS)
    files = {
        build_sources._XLA_SOURCE: f"{includes}::xla::StatusOr<int> f();\n",
        build_sources._GLOO_SOURCE: "global_ranks_.reserve(size_);\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"horovod-{build.VERSION}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_the_installed_horovod_is_recognised_in_a_second_or_two():
    began = time.monotonic()
    done = command()
    assert done.returncode == 0, done.stderr
    assert "is installed and checked" in done.stdout
    assert time.monotonic() - began < 5


def test_the_wheels_version_names_what_it_was_built_for():
    assert build.wanted_version("2.21.0", nccl=False, mpi=False) == "0.28.1+tf2.21.0.cpu.1"
    assert build.wanted_version("2.19.0-rc1", nccl=True, mpi=True) == (
        "0.28.1+tf2.19.0.rc1.nccl.mpi.1"
    )


def test_a_wheel_is_taken_from_the_cache_for_this_python_machine_and_version_only(tmp_path):
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    here = f"linux_{platform.machine()}"
    wheel = tmp_path / f"horovod-0.28.1+tf2.21.0.cpu.1-{tag}-{tag}-{here}.whl"
    (tmp_path / f"horovod-0.28.1+tf2.21.0.cpu.1-cp27-cp27-{here}.whl").touch()
    (tmp_path / f"horovod-0.28.1+tf2.20.0.cpu.1-{tag}-{tag}-{here}.whl").touch()
    (tmp_path / f"horovod-0.28.1+tf2.21.0.cpu.1-{tag}-{tag}-linux_other.whl").touch()
    assert build.cached_wheel("0.28.1+tf2.21.0.cpu.1", tmp_path) is None
    wheel.touch()
    assert build.cached_wheel("0.28.1+tf2.21.0.cpu.1", tmp_path) == wheel


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.default_cache() == tmp_path / "tf-lars" / "horovod"


def test_a_missing_tensorflow_is_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(BuildError, match=r"TensorFlow is not installed.*pip install tensorflow"):
        build.tensorflow_version()


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match=r"No C\+\+ compiler found \(CXX=no-such-compiler\)"):
        build_tools.check_tools(nccl=False, mpi=False)


def test_a_compiler_may_be_given_with_arguments(monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} g++")
    assert build_tools.check_tools(nccl=False, mpi=False) == {}


def test_missing_build_packages_are_named(monkeypatch):
    monkeypatch.setattr(build_tools, "BUILD_MODULES", ("cffi", "no_such_module"))
    with pytest.raises(BuildError, match=r"needs no_such_module: pip install '\.\[horovod\]'"):
        build_tools.check_tools(nccl=False, mpi=False)


def test_missing_cuda_nccl_and_mpi_are_named(monkeypatch, tmp_path):
    with pytest.raises(BuildError, match=r"no CUDA toolkit was found.*--cuda_home"):
        build_tools.check_tools(nccl=True, mpi=False, cuda_home=str(tmp_path))
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch()
    with pytest.raises(BuildError, match=r"NCCL was not found.*--nccl_home"):
        build_tools.check_tools(True, False, cuda_home=str(tmp_path), nccl_home=str(tmp_path))
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "nccl.h").touch()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libnccl.so.2").touch()
    env = build_tools.check_tools(True, False, cuda_home=str(tmp_path), nccl_home=str(tmp_path))
    assert env["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert env["HOROVOD_NCCL_LIB"] == str(tmp_path / "lib")
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **kwargs: None if name == "mpicxx" else which(name, **kwargs)
    )
    with pytest.raises(BuildError, match="no MPI is here"):
        build_tools.check_tools(nccl=False, mpi=True)


def test_a_wrong_checksum_is_refused_and_the_file_deleted(tmp_path):
    sdist = make_sdist(tmp_path)
    with pytest.raises(BuildError, match=f"should have {build.SHA256}.*deleted"):
        build.fetch_sdist(tmp_path)
    assert not sdist.exists()


def test_an_unreachable_index_is_explained_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(BuildError, match=r"could not be downloaded.*PIP_INDEX_URL"):
        build.fetch_sdist(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["download.log"]


def test_a_full_disk_is_named_before_and_during_the_build(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with pytest.raises(BuildError, match=r"0\.0 GiB free.*--cache_dir"), build.locked(tmp_path):
        pass
    log = tmp_path / "log"
    log.write_text("cc1plus: fatal error: No space left on device\n")
    assert "The disk is full" in str(build.explained(log, "It failed."))


def test_a_failed_compilation_shows_the_last_lines_and_the_log(tmp_path):
    log = tmp_path / "build.log"
    code = build.run([sys.executable, "-c", "print('line 1'); raise SystemExit('error: 7')"], log)
    assert code == 1
    text = str(build.explained(log, "Horovod could not be compiled."))
    assert "error: 7" in text
    assert f"The whole log: {log}" in text


def test_the_source_is_mended_for_cpus_and_for_gpus(monkeypatch, tmp_path):
    source, flags = build_sources.prepare_source(make_sdist(tmp_path), tmp_path / "cpu", nccl=False)
    assert "resize(size_)" in (source / build_sources._GLOO_SOURCE).read_text()
    xla = (source / build_sources._XLA_SOURCE).read_text()
    assert "::xla::StatusOr" in xla  # an empty file without GPUs: only its includes must pass
    folder = flags.removeprefix("-I")
    for header in build_sources._XLA_HEADERS:
        assert os.path.getsize(os.path.join(folder, header)) == 0

    source, flags = build_sources.prepare_source(make_sdist(tmp_path), tmp_path / "gpu", nccl=True)
    xla = (source / build_sources._XLA_SOURCE).read_text()
    assert flags == ""
    assert '"xla/hlo/builder/xla_builder.h"' in xla
    assert '"tensorflow/compiler/tf2xla/xla_op_kernel.h"' in xla
    assert "::absl::StatusOr" in xla


def test_a_source_that_is_not_horovods_is_not_mended_silently(tmp_path):
    path = tmp_path / "gloo_controller.cc"
    path.write_text("something else")
    with pytest.raises(ValueError, match="is not the file"):
        build_sources._mend_stall_check(path)


def test_what_an_interrupted_build_has_left_is_removed(tmp_path):
    (tmp_path / ".build-x" / "deep").mkdir(parents=True)
    (tmp_path / ".download-x").mkdir()
    with build.locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_an_interruption_kills_the_compiler_and_leaves_no_wheel(tmp_path):
    """The build runs against a compiler that never ends; SIGTERM must stop all of it."""
    shutil.copy(build.default_cache() / build.SDIST, tmp_path)
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nsleep 1000\n")
    compiler.chmod(0o755)
    process = subprocess.Popen(
        [*MODULE, "--force", f"--cache_dir={tmp_path}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=workers.environment({"CXX": compiler}),
    )  # fmt: skip
    sleeping = f"{compiler}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not running(sleeping):
        time.sleep(0.2)
    assert running(sleeping)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not running(sleeping)
    left = {path.name for path in tmp_path.iterdir() if path.name not in ("compiler", "lock")}
    assert left == {build.SDIST, "build-" + wanted() + ".log"}


def wanted():
    return build.wanted_version(build.tensorflow_version(), nccl=False, mpi=False)


def running(text):
    import psutil

    return any(
        text in " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid() and "pytest" not in (process.info["cmdline"] or ())
        and "tf_lars.horovod.build" not in (process.info["cmdline"] or ())
    )  # fmt: skip


def test_an_unknown_argument_is_refused():
    done = command("nccl")
    assert done.returncode == 1
    assert "unknown argument 'nccl'" in done.stderr


@pytest.mark.study
def test_a_build_from_nothing_works(tmp_path):
    done = command("--force", f"--cache_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f"{wanted()} works" in done.stdout
    assert build.cached_wheel(wanted(), tmp_path)
