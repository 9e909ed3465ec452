"""`trainers.train` with the network of the small runs as --model=tiny."""

import os
import sys

import matplotlib.pyplot  # noqa: F401 - a process forked from here has it loaded, and what follows
import sklearn.datasets  # noqa: F401

from tests.trainers.small_runs import tiny_network
from trainers import loop, train  # noqa: F401
from trainers.models import MODELS

MODELS["tiny"] = tiny_network


def main(flags, output, environment):
    """Trains in this process, which writes what it prints into a file."""
    os.environ.update(environment)
    file = os.open(output, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["train", *flags]
    train.main()


if __name__ == "__main__":
    train.main()
