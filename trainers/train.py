"""Trains a network: `python -m trainers.train --flagfile=configs/NAME.flags [--flag=value …]`.

The same line behind `horovodrun -np N` trains it on N workers. Exit codes: 0 trained, 2 the
settings cannot work, 3 the loss diverged, 75 stopped by SIGTERM: the same command goes on.
"""

import sys
import time

from absl import app
from absl import flags as absl_flags

from trainers import flags, startup
from trainers.data import DATASETS
from trainers.errors import ConfigError

BAD_SETTINGS, DIVERGED, STOPPED = 2, 3, 75
_BEGAN = time.time()

absl_flags.adopt_module_key_flags(flags)


def train(argv):
    config = flags.read_config()
    dataset = DATASETS[config.dataset](**config.options_for(DATASETS[config.dataset]))
    workers = startup.start()
    dataset = dataset.prepare(workers)
    from trainers import loop  # loads Keras, so it waits until the flags are known to be good

    summary = loop.train(config, dataset, workers, _BEGAN)
    if summary is None:
        return STOPPED
    return DIVERGED if summary["diverged"] else 0


def main():
    """Runs `train`; bad settings are answered by rank 0 alone, in one message."""
    try:
        app.run(train, flags_parser=flags.parse)
    except ConfigError as error:
        if startup.launched_rank_and_size()[0] == 0:
            print(f"trainers.train: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(2)  # horovodrun ends all workers with the first: rank 0 speaks before
        sys.exit(BAD_SETTINGS)


if __name__ == "__main__":
    main()
