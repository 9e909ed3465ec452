"""Who sees which example when. Plain arithmetic on indices, the same on every worker."""

import numpy as np


class SampleStream:
    """One endless shuffled stream of example indices, shared by all workers.

    Pass p over the data is the permutation drawn from (seed, p), so any stretch of the stream can
    be had without what comes before it, and every example comes once a pass.

    Args:
        examples: number of examples.
        seed: seed of the shuffles.
    """

    def __init__(self, examples, seed):
        self.examples = examples
        self.seed = seed
        self._shuffles = {}

    def indices(self, start, stop):
        """The example indices [stop − start] at the positions from `start` to before `stop`."""
        passes = range(start // self.examples, -(-stop // self.examples))
        known = self._shuffles
        shuffles = {p: known[p] if p in known else self._shuffle(p) for p in passes}
        self._shuffles = shuffles
        offset = passes.start * self.examples
        stretch = np.concatenate([shuffles[p] for p in passes])
        return stretch[start - offset : stop - offset]

    def _shuffle(self, number):
        return np.random.default_rng([self.seed, number]).permutation(self.examples)


def worker_batches(stream, global_batch, rank, size, first_step=0, position=None):
    """Yields (k·size + rank, a worker's part [B / size] of global batch k) for k from `first_step`.

    The first update takes the B positions of the stream from `position` on (by default what follows
    `first_step` batches of B), each later one the next B, and worker r the r-th of `size` equal
    parts of them: the workers' parts are disjoint and together the global batch. The number in
    front tells the parts of a run apart, to seed what is drawn for them.
    """
    local = global_batch // size
    step = first_step
    position = step * global_batch if position is None else position
    while True:
        batch = stream.indices(position, position + global_batch)
        yield step * size + rank, batch[rank * local : (rank + 1) * local]
        step, position = step + 1, position + global_batch


def evaluation_batches(examples, batch, rank, size):
    """A worker's (indices [b], weights [b]) for an evaluation that sees every example once.

    Every worker gets the same number of batches of the same size; where examples run out, rows
    repeat with weight zero.
    """
    share = -(-examples // size)
    batch = min(batch, share)
    padded = -(-share // batch) * batch
    positions = rank + size * np.arange(padded)
    weights = (positions < examples).astype(np.float32)
    indices = np.where(weights > 0, positions, 0)
    return list(zip(indices.reshape(-1, batch), weights.reshape(-1, batch), strict=True))
