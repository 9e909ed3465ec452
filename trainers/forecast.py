"""How long a run will take: measured speed, and the cost model of the exchange."""

import dataclasses

from trainers.cost_model import efficiency, ring_seconds


@dataclasses.dataclass(frozen=True)
class Network:
    """What joins the workers.

    Args:
        bandwidth: bytes a second of one worker's link.
        hop: seconds of a message between neighbours.
        call: seconds that any exchange takes.
    """

    bandwidth: float
    hop: float
    call: float


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Seconds of the first update, a worker's own work and then the exchange; hours of them all."""

    own: float
    exchange: float
    hours: float

    @property
    def efficiency(self):
        return efficiency(self.own, self.exchange)


def forecast(plan, speed, gradients, network):
    """The Forecast of a run; evaluation, start-up and a slow input pipeline are not in it.

    Args:
        plan: the run's Plan, whose batch may grow.
        speed: images a second of one worker alone.
        gradients: bytes that are exchanged in an update.
        network: a Network.
    """
    workers = plan.world_size
    exchange = ring_seconds(workers, gradients, network.call, network.bandwidth, network.hop)
    seconds = sum(
        stretch.updates * (stretch.batch / workers / speed + exchange)
        for stretch in plan.timetable.left(0)
    )
    return Forecast(plan.local_batch_size / speed, exchange, seconds / 3600)
