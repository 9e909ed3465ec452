"""Builds Horovod for the installed TensorFlow, installs it, and checks it with two ranks.

    python -m tf_lars.horovod.build              # Gloo, for CPUs: a C++ compiler needed
    python -m tf_lars.horovod.build --nccl       # for NVIDIA GPUs: CUDA's toolkit and NCCL needed
    python -m tf_lars.horovod.build --mpi        # with MPI beside Gloo (Adasum needs it)

Horovod is compiled against one TensorFlow and works with no other. The wheel is kept in a cache
under a name that says what it was built for (`horovod-0.28.1+tf2.21.0.cpu.1-cp311-….whl`), so that
another environment gets it in seconds, and a call that finds it installed and checked does nothing.
Never built nor run so far: NCCL (no GPU was at hand) and MPI.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from tf_lars.horovod.build_sources import REVISION, prepare_source
from tf_lars.horovod.build_tools import BuildError, check_tools, environment

VERSION = "0.28.1"
SDIST = f"horovod-{VERSION}.tar.gz"
SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
DISK_NEEDED_GIB = 1.0
CHECK_SECONDS = 180

_CACHE = flags.DEFINE_string("cache_dir", None, "Folder of wheels (default: ~/.cache/tf-lars).")
_NCCL = flags.DEFINE_bool("nccl", False, "Build for NVIDIA GPUs with NCCL.")
_MPI = flags.DEFINE_bool("mpi", False, "Build with MPI beside Gloo.")
_CUDA_HOME = flags.DEFINE_string("cuda_home", None, "CUDA toolkit for --nccl (default: searched).")
_NCCL_HOME = flags.DEFINE_string("nccl_home", None, "NCCL for --nccl (default: searched).")
_JOBS = flags.DEFINE_integer("jobs", None, "Parallel compilations (default: the cores).", 1)
_FORCE = flags.DEFINE_bool("force", False, "Build anew, whatever is cached or installed.")
_CHECK_ONLY = flags.DEFINE_bool("check_only", False, "Only check the installed Horovod.")

_CHECK_SCRIPT = """
import tensorflow as tf, horovod.tensorflow as hvd
hvd.init()
total = float(hvd.allreduce(tf.constant(1.0 + hvd.rank()), op=hvd.Sum))
assert hvd.size() == 2 and total == 3.0, f"{hvd.size()} ranks, sum {total} instead of 3"
"""


def say(text):
    print(f"horovod: {text}", flush=True)


def tensorflow_version():
    """The installed TensorFlow's version, without importing it."""
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    raise BuildError(
        f"TensorFlow is not installed in {sys.prefix}. Horovod is built against it: "
        "pip install tensorflow, then run this again."
    )


def wanted_version(tensorflow, nccl, mpi):
    """Horovod's version with a local part that names what it is built for (PEP 440)."""
    options = [option for option, on in (("nccl", nccl), ("mpi", mpi)) if on] or ["cpu"]
    local = ".".join(
        ["tf" + tensorflow.replace("-", ".").replace("+", "."), *options, str(REVISION)]
    )
    return f"{VERSION}+{local}"


def installed():
    """The installed Horovod as (version, whether its two-rank check passed)."""
    try:
        distribution = importlib.metadata.distribution("horovod")
    except importlib.metadata.PackageNotFoundError:
        return None, False
    return distribution.version, _stamp(distribution).exists()


def _stamp(distribution):
    return Path(str(distribution.locate_file(""))) / f".horovod-{distribution.version}.checked"


def default_cache():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tf-lars" / "horovod"


def cache_folder(given=None):
    folder = Path(given or default_cache()).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(command, log, timeout=None, **options):
    """Runs a command, its output going to the log file; returns the exit code.

    The command gets a process group of its own, which is killed when this process is interrupted.
    """
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **options,
        )
        try:
            return process.wait(timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def tail(log, lines=25):
    return "\n".join(Path(log).read_text(errors="replace").splitlines()[-lines:])


def explained(log, failure):
    """A BuildError with the log's last lines, where it is, and the reason if it is a known one."""
    text = Path(log).read_text(errors="replace")
    if "No space left on device" in text:
        failure = "The disk is full. Free some space and run this again."
    return BuildError(f"{tail(log)}\n{failure}\nThe whole log: {log}")


def fetch_sdist(cache):
    """Horovod's source from the package index or the cache, its checksum checked."""
    path = cache / SDIST
    if not path.exists():
        say(f"downloading the source of Horovod {VERSION}")
        log = cache / "download.log"
        log.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            options = ["--no-deps", "--no-binary=horovod", "--no-build-isolation", "--quiet"]
            command = [sys.executable, "-m", "pip", "download", *options, "-d", folder]
            code = run([*command, f"horovod=={VERSION}"], log, env=environment())
            if code or not (Path(folder) / SDIST).exists():
                raise explained(
                    log,
                    f"Horovod {VERSION} could not be downloaded. Check the network, or set "
                    f"PIP_INDEX_URL for a mirror, or put {SDIST} into {cache} by hand.",
                )
            (Path(folder) / SDIST).replace(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        path.unlink()
        raise BuildError(
            f"{path} has the SHA-256 checksum {digest} and should have {SHA256}: it is not the "
            "published source of Horovod. It was deleted; run this again, from another index if "
            "it happens again."
        )
    return path


def build_wheel(version, cache, nccl, mpi):
    """Compiles the wheel and moves it into the cache in one step; returns its path."""
    gpu = check_tools(nccl, mpi, _CUDA_HOME.value, _NCCL_HOME.value)
    sdist = fetch_sdist(cache)
    jobs = _JOBS.value or len(os.sched_getaffinity(0))
    say(f"compiling Horovod {version} ({jobs} at a time; two cores need about two minutes)")
    log = cache / f"build-{version}.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as name:
        folder = Path(name)
        source, cxxflags = prepare_source(sdist, folder, nccl)
        env = environment(
            HOROVOD_WITH_TENSORFLOW="1",
            HOROVOD_WITHOUT_PYTORCH="1",
            HOROVOD_WITHOUT_MXNET="1",
            HOROVOD_WITH_GLOO="1",
            HOROVOD_LOCAL_VERSION=version.partition("+")[2],
            CMAKE_POLICY_VERSION_MINIMUM="3.5",  # Gloo's CMake files are older than CMake 4 takes
            CXXFLAGS=f"{cxxflags} {os.environ.get('CXXFLAGS', '')}".strip(),
            MAKEFLAGS=f"-j{jobs}",
            TMPDIR=name,
            **{"HOROVOD_WITH_MPI" if mpi else "HOROVOD_WITHOUT_MPI": "1"},
            **gpu,
        )
        # pip's own cache would hand a wheel built for one TensorFlow to another.
        options = ["--no-build-isolation", "--no-cache-dir", "--no-deps", "--verbose"]
        command = [sys.executable, "-m", "pip", "wheel", *options, "-w", folder / "wheel", source]
        if run(command, log, env=env):
            raise explained(log, f"Horovod {version} could not be compiled.")
        (wheel,) = (folder / "wheel").glob("horovod-*.whl")
        return wheel.replace(cache / wheel.name)


def cached_wheel(version, cache):
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    return next(cache.glob(f"horovod-{version}-{tag}-*_{platform.machine()}.whl"), None)


def install(wheel, cache):
    say(f"installing {wheel.name}")
    log = cache / "install.log"
    log.unlink(missing_ok=True)
    options = ["--no-deps", "--no-index", "--force-reinstall", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, wheel]
    if run(command, log, env=environment()):
        raise explained(log, f"{wheel} could not be installed.")
    importlib.invalidate_caches()


def check(cache):
    """Two ranks add up a number; the stamp that this leaves makes the next call quick."""
    distribution = importlib.metadata.distribution("horovod")
    say("checking it with an all-reduce over two ranks")
    log = cache / "check.log"
    log.unlink(missing_ok=True)
    launcher = Path(sys.executable).with_name("horovodrun")
    command = [launcher, "--gloo", "-np", "2", sys.executable, "-c", _CHECK_SCRIPT]
    try:
        code = run(command, log, timeout=CHECK_SECONDS, env=environment(CUDA_VISIBLE_DEVICES=""))
    except subprocess.TimeoutExpired:
        code = f"no answer after {CHECK_SECONDS} s"
    if code:
        raise explained(log, f"Horovod {distribution.version} is installed and does not work here.")
    _stamp(distribution).touch()
    say(f"{distribution.version} works")


@contextlib.contextmanager
def locked(cache):
    """One build at a time; what an interrupted one has left is removed."""
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for pattern in (".build-*", ".download-*"):
            for leftover in cache.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(cache).free / 2**30
        if free < DISK_NEEDED_GIB:
            raise BuildError(
                f"{free:.1f} GiB free at {cache}, and the build needs {DISK_NEEDED_GIB:g}: free "
                "some, or name another folder with --cache_dir=DIR."
            )
        yield


def ensure(nccl=False, mpi=False, cache=None, force=False):
    """Builds, installs and checks Horovod as far as that is not done yet."""
    version = wanted_version(tensorflow_version(), nccl, mpi)
    if installed() == (version, True) and not force:
        return say(f"{version} is installed and checked")
    cache = cache_folder(cache)
    with locked(cache):
        wheel = None if force else cached_wheel(version, cache)
        if force or installed()[0] != version:
            install(wheel or build_wheel(version, cache, nccl, mpi), cache)
        check(cache)
    return None


def main(argv):
    if argv[1:]:
        sys.exit(f"horovod: unknown argument {argv[1]!r}; --help lists the flags")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if _CHECK_ONLY.value:
            if installed()[0] is None:
                raise BuildError("Horovod is not installed: run this without --check_only.")
            check(cache_folder(_CACHE.value))
        else:
            ensure(_NCCL.value, _MPI.value, _CACHE.value, _FORCE.value)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(f"horovod: {error}. The disk is full: free some space and run this again.")
    except BuildError as error:
        sys.exit(f"horovod: failed\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nhorovod: interrupted; the same command starts again")


def cli():
    app.run(main)


if __name__ == "__main__":
    cli()
