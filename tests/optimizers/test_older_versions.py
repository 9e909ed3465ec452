"""Models that older versions saved go on as they would have then; see make_fixtures.py."""

import json

import keras
import pytest

from tests.optimizers.make_fixtures import FIXTURES, losses_of_more_steps

SAVED = sorted(FIXTURES.glob("*/*.keras"))

pytestmark = pytest.mark.filterwarnings("ignore:CLARS.apply was given no mean_gradient_norms")


def test_there_are_models_of_older_versions():
    assert len(SAVED) >= 7


@pytest.mark.filterwarnings("error:Skipping variable loading")
@pytest.mark.parametrize("path", SAVED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_model_of_an_older_version_goes_on(path):
    expected = json.loads((path.parent / "expected.json").read_text())[path.stem]
    model = keras.models.load_model(path)
    config = json.loads(json.dumps(model.optimizer.get_config()))
    for argument, value in expected["config"].items():
        assert config[argument] == value, argument
    losses = losses_of_more_steps(model, len(expected["losses"]))
    assert losses == pytest.approx(expected["losses"], rel=1e-4)
    assert losses[-1] != pytest.approx(losses[-4], rel=1e-3)  # the same batch: the model has moved
