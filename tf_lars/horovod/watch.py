"""Looks after the ranks of a job: who has stopped is named, and one failure is shown once.

`init` here is Horovod's, and then
- each rank leaves a sign of life in the launcher's key-value store every few seconds and reads that
  of the next rank: one that is stopped or unreachable is named within `SILENCE_SECONDS`. (Horovod's
  own stall check sits in the exchange that such a rank blocks; it finds a rank that lives and does
  not take part in a reduction.)
- a rank that waits for another longer than HOROVOD_STALL_SHUTDOWN_TIME_SECONDS, ten minutes unless
  set, ends the job;
- an exception that all ranks have is printed by one of them, and a rank that ends only because
  another one did says so in one line.
"""

import atexit
import contextlib
import functools
import hashlib
import itertools
import os
import socket
import sys
import threading
import time
import urllib.request

import horovod.tensorflow as horovod
from horovod.common.exceptions import HorovodInternalError

BEAT_SECONDS = 3.0
SILENCE_SECONDS = 12.0
STALL_SHUTDOWN_SECONDS = 600
JOIN_SECONDS = 120
_SCOPE = "tf_lars"
_ENDED = "ended"
# What Horovod says on a rank whose peer has gone; TensorFlow passes it on in errors of its own.
_CONSEQUENCES = ("Horovod has been shut down", "Connection closed by peer", "/gloo/transport/")


def init(*args, **kwargs):
    """Starts Horovod and looks after the ranks; arguments are those of Horovod's `init`.

    Environment:
        HOROVOD_STALL_SHUTDOWN_TIME_SECONDS: seconds that a rank waits for another in a reduction
            before the job ends (default 600 here; 0 waits for ever).
        HOROVOD_STALL_CHECK_TIME_SECONDS: seconds until it is warned of (default 60).
        HOROVOD_GLOO_TIMEOUT_SECONDS: seconds that the ranks of an elastic job wait for one that
            joins, whose start takes its time, before they all abort (default 120 here, 30 with
            Horovod).
        TF_LARS_WATCH: 0 turns signs of life off.
    """
    os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(STALL_SHUTDOWN_SECONDS))
    if os.environ.get("HOROVOD_ELASTIC") == "1":
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(JOIN_SECONDS))
    horovod.init(*args, **kwargs)
    if horovod.size() > 1 and os.environ.get("HOROVOD_ELASTIC") != "1":
        _start(_Store.of_this_job())


@functools.cache
def _start(store):
    sys.excepthook = _once(store, horovod.rank(), horovod.size(), sys.excepthook)
    if store and os.environ.get("TF_LARS_WATCH") != "0":
        _Watch(store, horovod.rank(), horovod.size()).start()


class _Store:
    """The launcher's key-value store, which Gloo's ranks have met in."""

    def __init__(self, address):
        self._address = address

    @classmethod
    @functools.cache
    def of_this_job(cls):
        host = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
        port = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_PORT")
        return cls(f"http://{host}:{port}/{_SCOPE}") if host and port else None

    def put(self, key, text):
        request = urllib.request.Request(f"{self._address}/{key}", text.encode(), method="PUT")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=5).close()

    def get(self, key):
        """The text under a key, or None without one, or without a launcher."""
        address = f"{self._address}/{key}"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as response:
            return response.read().decode()
        return None


class _Watch(threading.Thread):
    """Leaves signs of life, and names the next rank when its own stay away."""

    def __init__(self, store, rank, size):
        super().__init__(name="tf_lars watch", daemon=True)
        self._store, self._rank, self._next = store, rank, (rank + 1) % size
        self._ended = threading.Event()

    def run(self):
        atexit.register(self._end)
        where = f"host {socket.gethostname()}, process {os.getpid()}"
        seen, since, warned = None, time.monotonic(), False
        for beat in itertools.count():
            self._store.put(f"alive.{self._rank}", f"{beat} {where}")
            sign = self._store.get(f"alive.{self._next}")
            silence = time.monotonic() - since
            if sign is None or sign != seen or sign.startswith(_ENDED):
                if warned and sign is not None:
                    say(f"rank {self._next} answers again")
                seen, since, warned = sign, time.monotonic(), False
            elif not warned and silence > SILENCE_SECONDS:
                warned = True
                say(
                    f"rank {self._next} ({seen.partition(' ')[2]}) has given no sign of life for "
                    f"{silence:.0f} s: it is stopped, or its machine cannot be reached"
                )
            if self._ended.wait(BEAT_SECONDS):
                return

    def _end(self):
        """A rank that ends takes its sign away: it is not missed."""
        self._ended.set()
        self.join()  # a sign of life that is still on its way would come after it
        self._store.put(f"alive.{self._rank}", _ENDED)


def _once(store, rank, size, show):
    """An exception hook: the first rank with an exception shows it, others with the same do not."""

    def hook(kind, error, trace):
        if _is_consequence(error):
            return say(f"rank {rank} stops, because {_culprit(store, size)}")
        if store:
            key = hashlib.sha256(f"{kind.__name__}: {error}".encode()).hexdigest()[:16]
            time.sleep(min(rank, 3))  # the lowest rank with it comes first
            first = store.get(f"error.{key}")
            if first is not None:
                return say(f"rank {rank} stops with the exception shown by rank {first}")
            store.put(f"error.{key}", str(rank))
        return show(kind, error, trace)

    return hook


def _culprit(store, size, most=64):
    """Who has ended before this rank, as far as the signs of life say."""
    ranks = range(min(size, most)) if store else []
    ended = [str(r) for r in ranks if (store.get(f"alive.{r}") or "").startswith(_ENDED)]
    if ended:
        return f"rank {', '.join(ended)} has ended and takes part no more"
    return "another rank has died or does not answer"


def _is_consequence(error):
    text = str(error)
    return isinstance(error, HorovodInternalError) or any(part in text for part in _CONSEQUENCES)


def say(text):
    """A line for the person at the launcher."""
    sys.stderr.write(f"tf_lars: {text}\n")
    sys.stderr.flush()
