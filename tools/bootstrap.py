"""Makes `.venv` beside the code and installs the project into it, at the lock file's versions.

    python3 tools/bootstrap.py [horovod] [test] [torch] ...     # the extras of setup.py wanted

Needs Python's standard library alone. Each step leaves a stamp in `.venv/steps` once it is
through, holding a digest of what it was made from: a second call is quick, an interrupted one goes
on where it stopped, and a changed lock file runs its step again.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STEPS = ENVIRONMENT / "steps"
PYTHON = ENVIRONMENT / "bin" / "python"
SUPPORTED = [(3, 11), (3, 12), (3, 13)]
DISK_NEEDED_GIB = 6


class SetupError(Exception):
    """A reason the set-up cannot go on, and the fix."""


def say(text):
    print(f"set-up: {text}", flush=True)


def run(command, failure, **kwargs):
    """Runs a command; its output is shown only when it fails, with `failure` as the explanation."""
    result = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **kwargs,
    )  # fmt: skip
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-15:])
        raise SetupError(f"{tail}\n{explain(result.stdout, failure)}")


def explain(output, failure):
    """The most likely reason for a failed installation, in words."""
    if "No space left on device" in output:
        return f"The disk is full. Free about {DISK_NEEDED_GIB} GiB and run the same command again."
    unreachable = ("Temporary failure in name resolution", "NewConnectionError", "timed out",
                   "Max retries exceeded", "ProxyError", "No matching distribution",
                   "conflicting dependencies")  # fmt: skip
    if any(sign in output for sign in unreachable):
        return (
            f"{failure} The package index could not be reached or lacks a pinned package. Check "
            "the network, or set PIP_INDEX_URL (and PIP_CERT) for a mirror, and run the same "
            "command again."
        )
    return f"{failure} The lines above say why; run the same command again once that is mended."


def check_machine():
    if sys.version_info[:2] not in SUPPORTED:
        names = ", ".join(f"{a}.{b}" for a, b in SUPPORTED)
        raise SetupError(
            f"Python {sys.version.split()[0]} ({sys.executable}) is not supported: {names} are. "
            "Name another one: make PYTHON=python3.11 …"
        )
    free = shutil.disk_usage(ROOT).free / 2**30
    if not PYTHON.exists() and free < DISK_NEEDED_GIB:
        raise SetupError(f"{free:.1f} GiB free at {ROOT}; the set-up needs {DISK_NEEDED_GIB} GiB.")


def check_compiler():
    """Horovod is compiled here; better to know before the downloads."""
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++"]
    if not any(map(shutil.which, names)):
        raise SetupError(
            "No C++ compiler found: Horovod is built from source. Install g++ (or set CXX)."
        )


def digest(*parts):
    text = "\0".join(p.read_text() if isinstance(p, Path) else str(p) for p in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def step(name, made_from, action, message):
    """Runs `action` unless its stamp says that it is through for exactly these inputs."""
    stamp = STEPS / name
    if stamp.exists() and stamp.read_text() == made_from:
        return
    say(message)
    action()
    temporary = stamp.with_suffix(".new")
    temporary.write_text(made_from)
    temporary.replace(stamp)


def remove_environment():
    """Renames it first: what an interruption leaves is then nobody's environment."""
    rubbish = ENVIRONMENT.with_name(f".venv-removed-{os.getpid()}")
    if ENVIRONMENT.exists():
        ENVIRONMENT.rename(rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def make_environment():
    if ENVIRONMENT.exists() and not STEPS.exists():
        raise SetupError(
            f"{ENVIRONMENT} exists and was not made by this set-up. Move it away first."
        )
    remove_environment()
    STEPS.mkdir(parents=True)
    venv.create(ENVIRONMENT, symlinks=True, with_pip=False)
    run([*find_pip(), "install", "--quiet", "-c", LOCK, "pip", "setuptools", "wheel"],
        "pip could not be installed.")  # fmt: skip


def find_pip():
    """A pip that can install into the new environment: Python's, the system's, or Debian's."""
    if subprocess.run([PYTHON, "-m", "ensurepip"], capture_output=True).returncode == 0:
        return [PYTHON, "-m", "pip"]
    for launcher in ([sys.executable, "-m", "pip"], ["pip3"]):
        if shutil.which(launcher[0]) and (
            subprocess.run([*launcher, "--version"], capture_output=True).returncode == 0
        ):
            return [*launcher, "--python", PYTHON]
    return [PYTHON, unpack_debian_pip()]


def unpack_debian_pip():
    """Debian's Python comes without pip; its package of pip can be unpacked without root."""
    target = ENVIRONMENT / "pip-wheel"
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            ["apt-get", "download", "python3-pip-whl"],
            ["dpkg-deb", "-x", "*.deb", target],
        ):
            failure = (
                "This Python has neither ensurepip nor pip, and Debian's package of pip could not "
                "be fetched. Install python3-venv or use another Python: make PYTHON=…"
            )
            if not shutil.which(command[0]):
                raise SetupError(failure)
            command = [next(Path(folder).glob("*.deb")) if c == "*.deb" else c for c in command]
            run(command, failure, cwd=folder)
    return next(target.rglob("pip-*.whl")) / "pip"


def install(extras):
    names = f"[{','.join(extras)}]" if extras else ""
    pip_install = [PYTHON, "-m", "pip", "install", "--quiet", "-c", LOCK, "--no-build-isolation"]
    run([*pip_install, "-e", f"{ROOT}{names}"], "The packages could not be installed.", cwd=ROOT)


def build_horovod():
    """Quick when the right build is installed; the module explains its own failures."""
    command = [str(PYTHON), "-m", "tf_lars.horovod.build"]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SetupError("Horovod could not be built; the lines above say why.")


def main(extras):
    try:
        check_machine()
        if "horovod" in extras:
            check_compiler()
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        step("environment", digest(version, str(ENVIRONMENT)), make_environment,
             f"making {ENVIRONMENT} with Python {version}")  # fmt: skip
        for extra in [[], *([e] for e in extras)]:
            step("packages-" + "-".join(extra or ["base"]), digest(LOCK, ROOT / "setup.py"),
                 lambda extra=extra: install(extra),
                 f"installing the pinned packages ({extra[0] if extra else 'base'})")  # fmt: skip
        if "horovod" in extras:
            build_horovod()
    except SetupError as error:
        sys.exit(f"set-up: failed\n{error}")
    except OSError as error:
        sys.exit(f"set-up: failed\n{explain(str(error), str(error) + '.')}")
    except KeyboardInterrupt:
        sys.exit("\nset-up: interrupted; the same command goes on from here")


if __name__ == "__main__":
    main(sys.argv[1:])
