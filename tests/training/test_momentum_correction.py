"""Momentum correction: the velocity follows the learning rate."""

import keras
import numpy as np
import pytest

from tests.training.models import data, large
from tests.training.oracle import gradient
from tf_lars.schedules.batch_size import StagedLearningRate
from tf_lars.training.momentum_correction import MomentumCorrection


def test_a_change_of_rate_moves_as_a_velocity_without_the_rate_does():
    x, y = data(32)
    schedule = StagedLearningRate([0.5, 0.05, 0.2], [2, 4])
    model = large(16, keras.optimizers.SGD(schedule, momentum=0.9))
    check = large(16)
    w = [v.numpy() for v in model.trainable_variables]
    v = [np.zeros_like(a) for a in w]
    for step in range(6):
        check.set_weights(w)
        v = [0.9 * a + g for a, g in zip(v, gradient(check, x, y), strict=True)]
        w = [a - float(schedule(step)) * b for a, b in zip(w, v, strict=True)]
    model.fit(x, y, batch_size=32, epochs=6, verbose=0, callbacks=[MomentumCorrection()])
    for ours, theirs in zip(model.trainable_variables, w, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "steps", "message"),
    [
        (keras.optimizers.Adam, 1, "not Adam"),
        (keras.optimizers.SGD, 1, "with momentum, not SGD"),
        (lambda: keras.optimizers.SGD(0.1, 0.9), 4, "needs steps_per_execution=1"),
    ],
)
def test_where_it_cannot_work_it_says_so(optimizer, steps, message):
    x, y = data(32)
    model = large(16, optimizer(), steps_per_execution=steps)
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, batch_size=32, verbose=0, callbacks=[MomentumCorrection()])
