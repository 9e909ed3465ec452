"""`horovodrun` without its noise: the same arguments, the same job.

    python -m tf_lars.horovod.run -np 2 python train.py

Horovod's launcher loads TensorFlow twice to ask how Horovod was built, which takes seconds and
prints a dozen lines, and it ends a failed job with a traceback of its own. Here the answer comes
from the version that `tf_lars.horovod.build` gave the installed Horovod, and a failed job ends with
the reason in a line and with the exit code of the first worker that failed, where `horovodrun` ends
with 1. SIGUSR1 is handed on to the workers of this machine, which may take their time over it;
SIGTERM leaves them five seconds, as with `horovodrun`. Elastic jobs, several hosts and every other
option work as there.
"""

import re
import signal
import sys
from importlib import metadata


def answer_from_the_version(launch):
    """Lets the launcher know what Horovod was built with, if our build made it."""
    local = metadata.version("horovod").partition("+")[2].split(".")
    if local[0].startswith("tf"):
        launch.gloo_built = lambda verbose=False: True
        launch.mpi_built = lambda verbose=False: "mpi" in local


def keep_out_of_helpers():
    """Keeps Horovod's helper processes from importing this module, and with it TensorFlow."""
    module = sys.modules["__main__"]
    module.__spec__ = None
    vars(module).pop("__file__", None)


def hand_on(number, frame):
    """Sends a signal to the workers on this machine."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        try:
            if _has_rank(process) and not _has_rank(process.parent()):
                process.send_signal(number)
        except psutil.Error:
            continue  # it has ended


def _has_rank(process):
    return "HOROVOD_RANK" in process.environ()


def main():
    """Runs `horovodrun` with this process's arguments."""
    try:
        from horovod.runner import launch

        answer_from_the_version(launch)
        keep_out_of_helpers()
        signal.signal(signal.SIGUSR1, hand_on)
        launch.run_commandline()
    except (ImportError, metadata.PackageNotFoundError):
        sys.exit("Horovod is not installed: run python -m tf_lars.horovod.build")
    except RuntimeError as error:
        reason = str(error).strip()
        print(f"horovod: {reason}", file=sys.stderr)
        code = re.search(r"^Exit code: (\d+)$", reason, re.MULTILINE)
        sys.exit(int(code[1]) if code else 1)


if __name__ == "__main__":
    main()
