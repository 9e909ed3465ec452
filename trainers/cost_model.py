"""What an exchange of gradients costs: the one place of the model in docs/scaling.md.

t = fixed + 2(p − 1)·hop + 2(p − 1)/p · bytes/bandwidth for p workers in a ring, which comes after
the backward pass: nothing is overlapped, so what follows is a lower bound of the efficiency.
"""

GBIT = 1e9 / 8  # bytes a second


def ring_seconds(workers, size, fixed, bandwidth, hop):
    """The time of a ring all-reduce of `size` bytes (Patarasuk and Yuan 2009).

    t = fixed + 2(p − 1)·hop + 2(p − 1)/p · bytes/bandwidth

    Args:
        workers: p; nothing is exchanged by one.
        size: bytes.
        fixed: seconds that every call costs, whatever its size.
        bandwidth: bytes a second of one link in one direction.
        hop: seconds of one message between neighbours.
    """
    if workers == 1:
        return 0.0
    return fixed + 2 * (workers - 1) * hop + 2 * (workers - 1) / workers * size / bandwidth


def efficiency(own, exchange):
    """The share of a step, own work and then the exchange, that is the worker's own work."""
    return own / (own + exchange)
