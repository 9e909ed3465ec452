"""Trains a network: `python -m trainers.train --flagfile=configs/NAME.flags [--flag=value …]`.

The same line behind `horovodrun -np N` trains it on N workers; with --elastic, in an elastic job of
horovodrun's, they may come and go. Exit codes: 0 trained, 2 the settings cannot work, 3 the loss
diverged, 74 a file of the run cannot be written (a full disk), 75 stopped by SIGTERM or SIGUSR1.
After 74 and 75 the same command goes on from the checkpoint.
"""

import functools
import sys
import time

from absl import flags as absl_flags

from trainers import command, flags, startup
from trainers.data import DATASETS

DIVERGED, UNWRITABLE, STOPPED = 3, 74, 75
_BEGAN = time.time()

absl_flags.adopt_module_key_flags(flags)


def train(argv):
    config = flags.read_config()
    startup.check_launcher(config.elastic)
    dataset = DATASETS[config.dataset](**config.options_for(DATASETS[config.dataset]))
    workers = startup.start()
    if not config.elastic:
        return train_with(config, dataset, workers)
    from trainers import elastic  # loads Horovod

    return elastic.run(functools.partial(train_with, config, dataset))


def train_with(config, dataset, workers, membership=None):
    """The exit code of a run on `workers`; all that they do together happens in here.

    Args:
        config: a TrainConfig.
        dataset: an `Unprepared` data set.
        workers: this worker's view of all workers.
        membership: the Membership of an elastic job.
    """
    dataset = dataset.prepare(workers)
    from trainers import loop  # loads Keras, so it waits until the flags are known to be good
    from trainers.run_directory import WriteError

    try:
        summary = loop.train(config, dataset, workers, _BEGAN, membership)
    except WriteError as error:
        if workers.rank == 0:
            print(f"trainers.train: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(2)  # the first to end with a code ends the others: rank 0 speaks before
        return UNWRITABLE
    if summary is None:
        return STOPPED
    return DIVERGED if summary["diverged"] else 0


def main():
    command.run("trainers.train", train, flags.parse)


if __name__ == "__main__":
    main()
