"""What all workers must know before any of them may act on it."""

import contextlib
import signal
import threading
import time

import numpy as np

_PERIOD = 0.5  # seconds between two exchanges: what a signal waits at most, beside an update
_STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """The signals that ask a run to stop; `asked` is the name of the first that came, or None."""

    def __init__(self):
        self.asked = None

    @contextlib.contextmanager
    def heeded(self):
        """Within it SIGTERM and SIGUSR1 are only noted."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals go to the main thread, and only it may take them over
            return
        before = {number: signal.signal(number, self._note) for number in _STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number, frame):
        self.asked = self.asked or signal.Signals(number).name


class Agreement:
    """Sums small vectors over the workers, about twice a second, after the same update on all.

    One worker is asked after every update. Between several each exchange costs a small all-reduce
    that the step waits for, so rank 0 looks at its clock and says with each when the next one is.

    Args:
        workers: the workers of the run.
        clock: seconds.
    """

    def __init__(self, workers, clock=time.monotonic):
        self.workers, self.clock = workers, clock
        self._asked_at = self._next = 0
        self._since = None

    def is_due(self, update):
        """Whether all workers exchange after `update` updates."""
        return update >= self._next

    def sums(self, update, own):
        """The sum over all workers of each number in `own`, a list; all of them call this."""
        steps = float(self._steps(update) if self.workers.rank == 0 else 0)
        *sums, steps = self.workers.sum(np.array([*own, steps], np.float64))
        self._asked_at, self._next, self._since = update, update + int(steps), self.clock()
        return sums

    def _steps(self, update):
        """Updates until the next exchange, from how long the last ones took."""
        done = update - self._asked_at
        if self.workers.size == 1 or self._since is None or not done:
            return 1
        return max(int(done * _PERIOD / max(self.clock() - self._since, 1e-3)), 1)
