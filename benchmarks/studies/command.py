"""The command line that the studies share."""

import argparse
import os

from benchmarks.studies.setups import SETUPS
from benchmarks.studies.tuning import Lab


def labs(doc, arguments=None):
    """The `Lab`s that the command line asks for, one core in use."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("setup", nargs="*", help=f"{', '.join(SETUPS)}; all without")
    parser.add_argument("--mnist", metavar="FOLDER", help=MNIST_HELP)
    given = parser.parse_args(arguments)
    for name in given.setup:
        if name not in SETUPS:
            parser.error(f"setup must be one of {', '.join(SETUPS)}; got {name!r}")
    one_core()
    return [Lab(name, train=True, mnist=given.mnist) for name in given.setup or SETUPS]


MNIST_HELP = "the folder of MNIST's four .gz files; tensorflow-datasets fetches them without it"


def one_core():
    """Runs repeat to the last bit only in one thread; for more speed start two studies at once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import warnings

    import tensorflow as tf

    # Keras warns that it cannot shuffle a data set; ours shuffle themselves.
    warnings.filterwarnings("ignore", "`shuffle=True` was passed")

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
