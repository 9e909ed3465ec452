"""Learning rates for large batches: how to scale them, how to warm them up and how to end them."""

from tf_lars.schedules.learning_rate import (
    WarmupConstant,
    WarmupCosine,
    WarmupPolynomial,
    WarmupStep,
)
from tf_lars.schedules.scaling import legw, scale_learning_rate

__all__ = [
    "WarmupConstant",
    "WarmupCosine",
    "WarmupPolynomial",
    "WarmupStep",
    "legw",
    "scale_learning_rate",
]
