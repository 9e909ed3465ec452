"""VR-LARS: the damped gradient against the formula, in the training step."""

import keras
import numpy as np
import pytest

from tests.training import oracle
from tests.training.models import data, large
from tf_lars.optimizers import LARS
from tf_lars.optimizers.vr_lars import VRLARS


def damped(parts, minimum=0.1):
    """r⊙ḡ from the gradients of the parts, one array [parts, …] for a variable."""
    mean = parts.mean(0)
    variance = (parts**2).mean(0) - mean**2
    ratio = mean**2 / np.maximum(variance, 1e-30)
    return mean * np.clip(ratio / ratio.mean(), minimum, 1.0)


@pytest.mark.parametrize("loss_scale", [None, 64.0])
def test_a_step_is_that_of_lars_on_the_damped_gradient(loss_scale):
    x, y = data(64)
    model = large(8, VRLARS(0.5, weight_decay=1e-3, loss_scale_factor=loss_scale))
    by_hand = large(8, LARS(0.5, weight_decay=1e-3))
    gradients = [oracle.gradient(model, x[s : s + 8], y[s : s + 8]) for s in range(0, 64, 8)]
    expected = [damped(np.array(parts)) for parts in zip(*gradients, strict=True)]
    by_hand.optimizer.apply(expected, by_hand.trainable_variables)
    model.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    for ours, theirs in zip(model.trainable_variables, by_hand.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-5)


def test_equal_parts_leave_the_gradient_whole():
    x, y = data(8)
    x, y = np.tile(x, (4, 1)), np.tile(y, 4)
    models = large(8, VRLARS(0.5)), large(8, LARS(0.5))
    for model in models:
        model.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    for ours, theirs in zip(*(m.trainable_variables for m in models), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-5)


def test_it_is_saved_with_its_model(tmp_path):
    x, y = data(32)
    model = large(8, VRLARS(0.5, min_ratio=0.2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, VRLARS) and loaded.optimizer.min_ratio == 0.2


def test_what_it_needs_is_said():
    with pytest.raises(ValueError, match="min_ratio=0 must be in"):
        VRLARS(min_ratio=0)
    variable = keras.Variable(np.ones((2, 2)))
    with pytest.raises(ValueError, match="needs mean_squared_gradients"):
        VRLARS(0.1).apply([np.ones((2, 2), "float32")], [variable])
    x, y = data(32)
    with pytest.raises(ValueError, match="VRLARS: this needs gradients of parts"):
        large(None, VRLARS(0.1)).fit(x, y, verbose=0)
