"""Learning-rate schedules with a gradual warm-up, as functions of the number of updates done.

All four rise in equal steps from `start_learning_rate` at update 0 to `learning_rate` at update
`warmup_steps` (Goyal et al. 2017, arXiv 1706.02677, section 2.2), follow their own decay from
there, and stay at their last value after the end. They run on every Keras backend.
"""

import math

import keras
from keras import ops

PACKAGE = "tf_lars"
DECAY_FROM = ("warmup", "start")


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """The warm-up. A subclass adds `decay(step)`: the rate at a float32 `step` ≥ `warmup_steps`."""

    def __init__(self, learning_rate, warmup_steps=0, start_learning_rate=0.0, name=None):
        super().__init__()
        self.learning_rate = _at_least_zero("learning_rate", learning_rate)
        self.warmup_steps = _at_least_zero("warmup_steps", warmup_steps)
        self.start_learning_rate = _at_least_zero("start_learning_rate", start_learning_rate)
        self.name = name or type(self).__name__

    def __call__(self, step):
        step = ops.cast(step, "float32")
        decayed = self.decay(ops.maximum(step, self.warmup_steps))
        if self.warmup_steps == 0:
            return decayed
        rise = self.learning_rate - self.start_learning_rate
        warming = self.start_learning_rate + rise * (step / self.warmup_steps)
        return ops.where(step < self.warmup_steps, warming, decayed)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "start_learning_rate": self.start_learning_rate,
            "name": self.name,
        }


class _WarmupToEnd(_Warmup):
    """A warm-up, then a decay to `end_learning_rate` at update `total_steps`.

    A subclass adds `remaining(progress)`, which falls from 1 to 0 as `progress` goes from 0 to 1.
    """

    def __init__(
        self,
        learning_rate,
        total_steps,
        warmup_steps=0,
        start_learning_rate=0.0,
        end_learning_rate=0.0,
        decay_from="warmup",
        name=None,
    ):
        super().__init__(learning_rate, warmup_steps, start_learning_rate, name)
        if not total_steps >= 1:
            raise ValueError(f"total_steps must be at least 1; got {total_steps!r}")
        if warmup_steps > total_steps:
            raise ValueError(
                f"warmup_steps must be at most total_steps ({total_steps}); got {warmup_steps}"
            )
        if decay_from not in DECAY_FROM:
            raise ValueError(f"decay_from must be 'warmup' or 'start'; got {decay_from!r}")
        self.total_steps = total_steps
        self.end_learning_rate = _at_least_zero("end_learning_rate", end_learning_rate)
        self.decay_from = decay_from

    def decay(self, step):
        begin = self.warmup_steps if self.decay_from == "warmup" else 0
        span = max(self.total_steps - begin, 1)
        remaining = self.remaining(ops.clip((step - begin) / span, 0.0, 1.0))
        return self.end_learning_rate + (self.learning_rate - self.end_learning_rate) * remaining

    def get_config(self):
        return super().get_config() | {
            "total_steps": self.total_steps,
            "end_learning_rate": self.end_learning_rate,
            "decay_from": self.decay_from,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class WarmupPolynomial(_WarmupToEnd):
    """Warm-up, then end + (peak − end)·(1 − p)^power with p from 0 to 1 until `total_steps`.

    The LARS paper (You et al. 2017, arXiv 1708.03888) uses power 2 with p = t/T counted from
    update 0 (`decay_from="start"`: after a warm-up the rate continues below its peak); MLPerf's
    reference counts p = (t − W)/(T − W) from the end of the warm-up (`decay_from="warmup"`).

    Args:
        learning_rate: the peak, reached at update `warmup_steps`; not negative.
        total_steps: T, the number of updates after which the rate stays at its end; at least 1.
        warmup_steps: W, updates of warm-up, 0 ≤ W ≤ T.
        start_learning_rate: the rate at update 0 when there is a warm-up.
        end_learning_rate: the rate at update T and after it.
        power: exponent of the decay, positive; 1 is a straight line.
        decay_from: `"warmup"` or `"start"`, see above.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> schedule = WarmupPolynomial(2.0, total_steps=110, warmup_steps=10)
        >>> [float(schedule(step)) for step in (0, 5, 10, 60, 110, 200)]
        [0.0, 1.0, 2.0, 0.5, 0.0, 0.0]
    """

    def __init__(
        self,
        learning_rate,
        total_steps,
        warmup_steps=0,
        start_learning_rate=0.0,
        end_learning_rate=0.0,
        power=2.0,
        decay_from="warmup",
        name=None,
    ):
        super().__init__(
            learning_rate,
            total_steps,
            warmup_steps,
            start_learning_rate,
            end_learning_rate,
            decay_from,
            name,
        )
        if not power > 0:
            raise ValueError(f"power must be positive; got {power!r}")
        self.power = power

    def remaining(self, progress):
        return ops.power(1.0 - progress, self.power)

    def get_config(self):
        return super().get_config() | {"power": self.power}


@keras.saving.register_keras_serializable(PACKAGE)
class WarmupCosine(_WarmupToEnd):
    """Warm-up, then end + (peak − end)·(1 + cos πp)/2 with p from 0 to 1 until `total_steps`.

    Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts; SimCLR and the other
    self-supervised users of LARS train with it.

    Args:
        learning_rate: the peak, reached at update `warmup_steps`; not negative.
        total_steps: T, the number of updates after which the rate stays at its end; at least 1.
        warmup_steps: W, updates of warm-up, 0 ≤ W ≤ T.
        start_learning_rate: the rate at update 0 when there is a warm-up.
        end_learning_rate: the rate at update T and after it.
        decay_from: `"warmup"` counts p from W, `"start"` from 0.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> schedule = WarmupCosine(2.0, total_steps=110, warmup_steps=10)
        >>> [round(float(schedule(step)), 6) for step in (0, 10, 60, 110)]
        [0.0, 2.0, 1.0, 0.0]
    """

    def remaining(self, progress):
        return 0.5 * (1.0 + ops.cos(progress * math.pi))


@keras.saving.register_keras_serializable(PACKAGE)
class WarmupStep(_Warmup):
    """Warm-up, then the peak times `factor` for each boundary that has been reached.

    Goyal et al. 2017, arXiv 1706.02677, section 5.1: a tenth after 30, 60 and 80 of 90 epochs.

    Args:
        learning_rate: the peak, reached at update `warmup_steps`; not negative.
        boundaries: rising numbers of updates, counted from 0; at a boundary the rate is lower.
        factor: what a boundary multiplies the rate by, not negative.
        warmup_steps: updates of warm-up, not after the first boundary.
        start_learning_rate: the rate at update 0 when there is a warm-up.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> schedule = WarmupStep(3.2, boundaries=[30, 60], warmup_steps=5)
        >>> [round(float(schedule(step)), 3) for step in (0, 5, 29, 30, 60)]
        [0.0, 3.2, 3.2, 0.32, 0.032]
    """

    def __init__(
        self,
        learning_rate,
        boundaries,
        factor=0.1,
        warmup_steps=0,
        start_learning_rate=0.0,
        name=None,
    ):
        super().__init__(learning_rate, warmup_steps, start_learning_rate, name)
        self.boundaries = list(boundaries)
        if self.boundaries != sorted(set(self.boundaries)) or min(self.boundaries, default=1) < 1:
            raise ValueError(f"boundaries must be positive and rising; got {self.boundaries}")
        if self.boundaries and warmup_steps > self.boundaries[0]:
            raise ValueError(
                f"warmup_steps must be at most the first boundary ({self.boundaries[0]}); "
                f"got {warmup_steps}"
            )
        self.factor = _at_least_zero("factor", factor)

    def decay(self, step):
        rate = ops.full((), self.learning_rate, dtype="float32")
        for passed, boundary in enumerate(self.boundaries, start=1):
            rate = ops.where(step >= boundary, self.learning_rate * self.factor**passed, rate)
        return rate

    def get_config(self):
        return super().get_config() | {"boundaries": self.boundaries, "factor": self.factor}


@keras.saving.register_keras_serializable(PACKAGE)
class WarmupConstant(_Warmup):
    """Warm-up, then the peak for ever.

    Args:
        learning_rate: the peak, reached at update `warmup_steps`; not negative.
        warmup_steps: updates of warm-up, not negative.
        start_learning_rate: the rate at update 0 when there is a warm-up.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> schedule = WarmupConstant(0.4, warmup_steps=4, start_learning_rate=0.2)
        >>> [round(float(schedule(step)), 3) for step in (0, 2, 4, 1000)]
        [0.2, 0.3, 0.4, 0.4]
    """

    def decay(self, step):
        return ops.full((), self.learning_rate, dtype="float32")


def _at_least_zero(name, value):
    if not value >= 0:
        raise ValueError(f"{name} must not be negative; got {value!r}")
    return value
