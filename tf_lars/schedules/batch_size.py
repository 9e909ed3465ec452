"""Batches that grow during training, and the learning rates that go with them.

The noise scale of SGD, g = γN/(B(1 − μ)) for B ≪ N (Smith and Le 2018, arXiv 1710.06451), falls in
the same way whether γ is divided by α or B multiplied by it. Growing the batch instead of decaying
the learning rate gives the same curves per epoch with fewer updates (Smith et al. 2018, arXiv
1711.00489).
"""

import bisect
import dataclasses
import fractions
import math
from typing import NamedTuple

import keras
from keras import ops

from tf_lars.schedules.learning_rate import WarmupStep

UNITS = ("epoch", "update")


@dataclasses.dataclass(frozen=True)
class BatchSizeSchedule:
    """Which global batch an update takes: `batches[i]` once `boundaries[i − 1]` has been reached.

    Args:
        batches: rows of the global batch in each stage, whole numbers of at least 1.
        boundaries: rising positive numbers, one fewer than `batches`: where the next stage begins.
        unit: "epoch" counts passes over the data, fractions too (2.5: in the middle of the third
            epoch); "update" counts updates.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> schedule = BatchSizeSchedule([100, 300], [1.5])
        >>> schedule.epoch(0, examples=900)
        [100, 100, 100, 100, 100, 100, 100, 100, 100]
        >>> schedule.epoch(1, examples=900)
        [100, 100, 100, 100, 100, 300]
    """

    batches: tuple
    boundaries: tuple = ()
    unit: str = "epoch"

    def __post_init__(self):
        object.__setattr__(self, "batches", tuple(self.batches))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        for batch in self.batches:
            if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
                raise ValueError(f"batches holds {batch!r}: sizes are whole numbers, at least 1.")
        if len(self.batches) != len(self.boundaries) + 1:
            raise ValueError(
                f"batches needs one size more than there are boundaries ({len(self.boundaries)}); "
                f"got {len(self.batches)}."
            )
        rising = all(a < b for a, b in zip((0, *self.boundaries), self.boundaries, strict=False))
        if not rising:
            raise ValueError(f"boundaries={list(self.boundaries)} must be positive and rising.")
        if self.unit not in UNITS:
            raise ValueError(f"unit={self.unit!r} must be one of {', '.join(map(repr, UNITS))}.")

    def check(self, examples, workers=1):
        """Refuses sizes that `examples` rows on `workers` workers cannot give.

        Raises:
            ValueError: a batch below the number of workers, not divisible by it, or larger than the
                data set.
        """
        for batch in self.batches:
            if batch < workers:
                raise ValueError(
                    f"batches={list(self.batches)} shrinks to {batch}, below the {workers} "
                    "workers: each needs at least one row."
                )
            if batch % workers:
                raise ValueError(
                    f"batches={list(self.batches)}: {batch} is not divisible by {workers} workers."
                )
            if batch > examples:
                raise ValueError(
                    f"batches={list(self.batches)} grows past the data set: {batch} of {examples} "
                    f"examples. Set max_batch to at most {examples // workers * workers}."
                )

    def epoch(self, epoch, examples):
        """The sizes of epoch number `epoch` (from 0); rows that fill no batch are left out.

        Args:
            epoch: number of the epoch, from 0.
            examples: N, rows of the data set, not less than any batch.
        """
        self.check(examples)
        if self.unit == "epoch":
            return self._epoch(epoch, examples, 0)
        update = 0
        for earlier in range(epoch):
            update += len(self._epoch(earlier, examples, update))
        return self._epoch(epoch, examples, update)

    def _epoch(self, epoch, examples, update):
        sizes, row = [], 0
        while True:
            passed = update + len(sizes) if self.unit == "update" else epoch + row / examples
            # A boundary that the division misses by its rounding is met.
            batch = self.batches[bisect.bisect_right(self.boundaries, passed + 1e-9)]
            if row + batch > examples:
                return sizes
            sizes.append(batch)
            row += batch

    def updates(self, epochs, examples):
        """The number of updates in the first `epochs` epochs."""
        total = 0
        for epoch in range(epochs):
            total += len(self._epoch(epoch, examples, total))
        return total

    def update_boundaries(self, examples):
        """The boundaries as numbers of updates done: the first update of each later stage."""
        if self.unit == "update":
            return list(self.boundaries)
        self.check(examples)
        found, done, epoch = [], 0, 0
        while len(found) < len(self.boundaries):
            row = 0
            for size in self._epoch(epoch, examples, done):
                stage = bisect.bisect_right(self.boundaries, epoch + row / examples + 1e-9)
                found += [done] * (stage - len(found))
                done, row = done + 1, row + size
            epoch += 1
        return found


def noise_scale(learning_rate, batch, examples, momentum=0.0):
    """g = γN/(B(1 − μ)), the noise scale of SGD (Smith and Le 2018, arXiv 1710.06451)."""
    return learning_rate * examples / (batch * (1 - momentum))


class Grown(NamedTuple):
    """What `grow_batch` returns: a batch size and a learning rate for each stage.

    Attributes:
        batch_size: `BatchSizeSchedule`, by epoch.
        learning_rate: `StagedLearningRate`, a Keras schedule by update.
    """

    batch_size: BatchSizeSchedule
    learning_rate: object


def grow_batch(schedule, factor=None, max_batch=None, *, batch, examples, multiple_of=1):
    """Turns a learning rate that decays in steps into a batch that grows.

    At each boundary the original schedule multiplies γ by f. Here B ← min(αB, B_max) and
    γ ← γ·f·B′/B, so that γ/B, and with it the noise scale, is that of the original in every epoch:
    with α = 1/f the learning rate stays until the cap is met, and takes what the cap leaves.

    Args:
        schedule: a `WarmupStep`, by update at the original batch, with `factor` f in (0, 1).
        factor: α > 1, what a boundary multiplies the batch by; 1/f if None.
        max_batch: B_max; a tenth of the data set if None, as Smith et al. advise (B ≪ N).
        batch: the original global batch.
        examples: N, rows of the data set.
        multiple_of: sizes are rounded down to a multiple of this, such as the number of workers;
            the learning rate takes up the rounding.

    Returns:
        `Grown(batch_size, learning_rate)`.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> decay = WarmupStep(0.1, boundaries=[300, 600], factor=0.2)
        >>> grown = grow_batch(decay, max_batch=1000, batch=100, examples=10000)
        >>> grown.batch_size.batches, grown.learning_rate.rates
        ((100, 500, 1000), (0.1, 0.1, 0.04))

    Source: Smith et al. 2018, arXiv 1711.00489, sections 3 to 5.
    """
    if not isinstance(schedule, WarmupStep) or not 0 < schedule.factor < 1:
        raise ValueError(
            f"schedule={schedule!r} must be a WarmupStep with a factor in (0, 1): what decays in "
            "steps can be turned into a batch that grows in steps."
        )
    growth = 1 / schedule.factor if factor is None else factor
    if not growth > 1:
        raise ValueError(f"factor={factor!r} must be above 1.")
    cap = max(examples // 10, batch) if max_batch is None else max_batch
    if not batch <= cap <= examples:
        raise ValueError(
            f"max_batch={cap!r} must be between the first batch, {batch}, and the {examples} "
            "examples of the data set."
        )
    batches, rates = [batch], [schedule.learning_rate]
    # The growth is kept apart from the rounding, which would otherwise add up.
    wanted = fractions.Fraction(batch)
    for passed, _ in enumerate(schedule.boundaries, start=1):
        wanted = min(wanted * fractions.Fraction(growth), fractions.Fraction(cap))
        # 1/0.2 is a little above 5 in binary: a size that misses a whole number by that is meant.
        size = math.floor(wanted / multiple_of + fractions.Fraction(1, 10**9)) * multiple_of
        batches.append(max(size, batches[-1]))
        decayed = schedule.learning_rate * schedule.factor**passed
        rates.append(decayed * batches[-1] / batch)
    per_epoch = examples // batch
    epochs = [boundary / per_epoch for boundary in schedule.boundaries]
    sizes = BatchSizeSchedule(batches, epochs)
    sizes.check(examples)
    return Grown(
        sizes,
        StagedLearningRate(
            rates,
            sizes.update_boundaries(examples),
            schedule.warmup_steps,
            schedule.start_learning_rate,
        ),
    )


def batch_for_momentum(batch, momentum, new_momentum):
    """The batch at which a larger momentum keeps the noise scale: B·(1 − μ)/(1 − μ′), rounded.

    Args:
        batch: B at momentum μ, at least 1.
        momentum, new_momentum: μ and μ′, in [0, 1).

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> batch_for_momentum(640, 0.9, 0.98)
        3200

    Source: Smith et al. 2018, arXiv 1711.00489, section 4: B ∝ 1/(1 − μ).
    """
    for name, value in (("momentum", momentum), ("new_momentum", new_momentum)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value!r} must be in [0, 1).")
    if not batch >= 1:
        raise ValueError(f"batch={batch!r} must be at least 1.")
    return max(round(batch * (1 - momentum) / (1 - new_momentum)), 1)


@keras.saving.register_keras_serializable("tf_lars")
class StagedLearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up to `rates[0]`, then `rates[i]` once `boundaries[i − 1]` updates are done.

    Args:
        rates: a learning rate for each stage, not negative.
        boundaries: rising numbers of updates, one fewer than `rates`.
        warmup_steps: updates of warm-up, not after the first boundary.
        start_learning_rate: the rate at update 0 when there is a warm-up.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> schedule = StagedLearningRate([0.5, 0.25], [100])
        >>> [float(schedule(step)) for step in (0, 99, 100)]
        [0.5, 0.5, 0.25]
    """

    def __init__(self, rates, boundaries=(), warmup_steps=0, start_learning_rate=0.0, name=None):
        super().__init__()
        self.rates, self.boundaries = tuple(rates), tuple(boundaries)
        if len(self.rates) != len(self.boundaries) + 1 or min(self.rates) < 0:
            raise ValueError(
                f"rates={list(self.rates)} must be one rate more than there are boundaries "
                f"({len(self.boundaries)}), none negative."
            )
        if list(self.boundaries) != sorted(self.boundaries) or min(self.boundaries, default=1) < 1:
            raise ValueError(f"boundaries={list(self.boundaries)} must be positive and rising.")
        if not 0 <= warmup_steps <= min(self.boundaries, default=math.inf):
            raise ValueError(
                f"warmup_steps={warmup_steps!r} must be between 0 and the first boundary."
            )
        self.warmup_steps, self.start_learning_rate = warmup_steps, start_learning_rate
        self.name = name

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = ops.full((), self.rates[0], dtype="float32")
        for boundary, later in zip(self.boundaries, self.rates[1:], strict=True):
            rate = ops.where(step >= boundary, later, rate)
        if not self.warmup_steps:
            return rate
        rise = (self.rates[0] - self.start_learning_rate) * (step / self.warmup_steps)
        return ops.where(step < self.warmup_steps, self.start_learning_rate + rise, rate)

    def get_config(self):
        return {
            "rates": list(self.rates),
            "boundaries": list(self.boundaries),
            "warmup_steps": self.warmup_steps,
            "start_learning_rate": self.start_learning_rate,
            "name": self.name,
        }
