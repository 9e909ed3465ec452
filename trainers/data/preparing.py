"""Work on the data that one worker of each machine does while the others wait."""

import dataclasses
import typing

import numpy as np
from absl import logging

from trainers.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Unprepared:
    """A data set whose settings are known to be good and whose files have not been looked at.

    Args:
        load: function of the workers that gives the data set.
    """

    load: typing.Callable

    def prepare(self, workers):
        """The data set, ready; called by all workers together."""
        return self.load(workers)


def prepare_once(workers, is_prepared, prepare):
    """Calls `prepare` on rank 0, and then on the machines that do not see its files.

    No worker returns before all is prepared, and all raise if one does.

    Args:
        workers: with `rank`, `local_rank` and `sum`, see trainers.startup.
        is_prepared, prepare: functions without arguments; `prepare` may raise ConfigError.

    Raises:
        ConfigError: the data could not be prepared.
    """
    for mine in (workers.rank == 0, workers.local_rank == 0):
        problem = None
        if mine and not is_prepared():
            try:
                prepare()
            except ConfigError as error:
                problem = str(error)
                if workers.rank:  # rank 0 says its own at the end
                    logging.error("%s", problem)
        # The sum is also where the others wait.
        if workers.sum(np.array([float(problem is not None)]))[0]:
            raise ConfigError(problem or "another worker could not prepare the data set.")
