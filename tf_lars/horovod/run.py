"""`horovodrun` without its noise: the same arguments, the same job.

    python -m tf_lars.horovod.run -np 2 python train.py

Horovod's launcher loads TensorFlow twice to ask how Horovod was built, which takes seconds and
prints a dozen lines, and it ends a failed job with a traceback of its own. Here the answer comes
from the version that `tf_lars.horovod.build` gave the installed Horovod, and the reason is one
line. Elastic jobs, several hosts and every other option work as with `horovodrun`.
"""

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


def main():
    """Runs `horovodrun` with this process's arguments."""
    try:
        from horovod.runner import launch

        answer_from_the_version(launch)
        keep_out_of_helpers()
        launch.run_commandline()
    except (ImportError, metadata.PackageNotFoundError):
        sys.exit("Horovod is not installed: run python -m tf_lars.horovod.build")
    except RuntimeError as error:
        sys.exit(f"horovod: {str(error).strip()}")


if __name__ == "__main__":
    main()
