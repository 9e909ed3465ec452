"""TensorFlow checkpoints hold every optimizer's whole state."""

import numpy as np
import pytest
import tensorflow as tf

from tests.optimizers.make_fixtures import OPTIMIZERS, losses_of_more_steps
from tests.optimizers.test_contract import numpy_of, small_model

pytestmark = pytest.mark.filterwarnings("ignore:CLARS.apply was given no mean_gradient_norms")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_restored_into_a_fresh_model_goes_on_bit_for_bit(name, tmp_path):
    def checkpoint_of(seed):
        model = small_model(seed)
        model.compile(OPTIMIZERS[name](), loss="mse")
        model.optimizer.build(model.trainable_variables)
        return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    first, checkpoint = checkpoint_of(0)
    losses_of_more_steps(first, 5)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    second, checkpoint = checkpoint_of(1)
    checkpoint.read(path).assert_existing_objects_matched()
    assert losses_of_more_steps(second, 4) == losses_of_more_steps(first, 4)
    for a, b in zip(
        numpy_of(first.weights + first.optimizer.variables),
        numpy_of(second.weights + second.optimizer.variables),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
