"""The command line that the studies share, and what is left to do."""

import argparse
import copy
import dataclasses
import os
import warnings
from collections.abc import Callable

from benchmarks.studies.runs import Missing, in_words
from benchmarks.studies.setups import SETUPS
from benchmarks.studies.tuning import Lab


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a study.

    Attributes:
        label: what it is.
        runs: how many runs it takes at most.
        make: a function of a `Lab` that makes those that are missing.
    """

    label: str
    runs: int
    make: Callable

    def is_done(self, lab):
        """Whether no run is missing."""
        reader = copy.copy(lab)
        reader.train = False
        try:
            self.make(reader)
        except Missing:
            return False
        return True


def study(doc, parts, arguments=None):
    """Makes the `parts(setup's name)` of the setups that the command line asks for."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("setup", nargs="*", help=f"{', '.join(SETUPS)}; all without")
    parser.add_argument("--mnist", metavar="FOLDER", help=MNIST_HELP)
    parser.add_argument("--only", default="", metavar="TEXT", help="the parts with it in the label")
    given = parser.parse_args(arguments)
    for name in given.setup:
        if name not in SETUPS:
            parser.error(f"setup must be one of {', '.join(SETUPS)}; got {name!r}")
    one_core()
    for name in given.setup or SETUPS:
        lab = Lab(name, train=True, mnist=given.mnist)
        for part in parts(name):
            if given.only not in part.label or part.is_done(lab):
                continue
            print(f"{name}: {remaining(lab, parts)}; now {part.label}", flush=True)
            part.make(lab)


def remaining(lab, parts):
    """In words, how many runs are missing and how long they take."""
    missing = sum(part.runs for part in parts(lab.name) if not part.is_done(lab))
    each = lab.runs.cpu_seconds()
    time = f"about {in_words(missing * each)} of one core" if each else "time not known yet"
    return f"at most {missing} runs to do, {time}"


MNIST_HELP = "the folder of MNIST's four .gz files; tensorflow-datasets fetches them without it"


def one_core():
    """Runs repeat to the last bit only in one thread; for more speed start two studies at once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    # Keras warns that it cannot shuffle a data set; ours shuffle themselves.
    warnings.filterwarnings("ignore", "`shuffle=True` was passed")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
