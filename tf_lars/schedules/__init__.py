"""Schedules for large batches: learning rates (scaled, warmed up, ended) and growing batches."""

from tf_lars.schedules.batch_size import (
    BatchSizeSchedule,
    StagedLearningRate,
    batch_for_momentum,
    grow_batch,
    noise_scale,
)
from tf_lars.schedules.learning_rate import (
    WarmupConstant,
    WarmupCosine,
    WarmupPolynomial,
    WarmupStep,
)
from tf_lars.schedules.scaling import legw, scale_learning_rate

__all__ = [
    "BatchSizeSchedule",
    "StagedLearningRate",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupPolynomial",
    "WarmupStep",
    "batch_for_momentum",
    "grow_batch",
    "legw",
    "noise_scale",
    "scale_learning_rate",
]
