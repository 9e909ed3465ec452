"""Runs whose workers come and go: after each change they begin anew from the newest checkpoint."""

import keras

import tf_lars.horovod as hvd
from trainers.startup import present_workers


class Membership(hvd.elastic.State):
    """Whether other workers could take part than those that do.

    It keeps nothing in memory: what a run goes on from lies in its folder.

    Attributes:
        changed: whether this worker has been told of others; Horovod tells rank 0.
    """

    def __init__(self):
        super().__init__(hvd.broadcast_object, hvd.rank)
        self.changed = False

    def on_hosts_updated(self, timestamp, update_res):
        super().on_hosts_updated(timestamp, update_res)
        self.changed = True

    def reset(self):
        self.changed = False

    def interrupt(self):
        """The exception with which all workers leave a run, to begin it anew with the others."""
        return hvd.elastic.HostsUpdatedInterrupt(skip_sync=True)

    def save(self):
        pass

    restore = sync = save


def run(train):
    """What `train(workers, membership)` returns, called anew whenever the workers change.

    A lost worker ends it by a failed collective, one that joins by `Membership.interrupt`.
    """

    @hvd.elastic.run
    def begin(membership):
        keras.backend.clear_session()
        return train(present_workers(), membership)

    return begin(Membership())
