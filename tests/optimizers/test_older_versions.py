"""Models that older versions saved go on as they would have then; see make_fixtures.py."""

import json

import keras
import pytest

from tests.optimizers.make_fixtures import FIXTURES, losses_of_more_steps
from tests.optimizers.test_contract import small_model
from tf_lars import LARS

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
        if argument == "optimizer":  # its module depends on the backend
            assert config[argument]["config"] == value["config"]
        else:
            assert config[argument] == value, argument
    losses = losses_of_more_steps(model, len(expected["losses"]))
    assert losses == pytest.approx(expected["losses"], rel=1e-4)
    assert losses[-1] != pytest.approx(losses[-4], rel=1e-3)  # the same batch: the model has moved


def test_excluded_variables_of_a_sequential_model_stay_excluded_when_it_is_loaded(tmp_path):
    model = small_model()
    kernel, bias = model.get_layer("head").trainable_variables
    optimizer = LARS(exclude_from_weight_decay=[kernel], exclude_from_layer_adaptation=[bias])
    model.compile(optimizer, loss="mse")
    losses_of_more_steps(model, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    # Keras leaves the model's name out of the paths of a loaded Sequential model.
    assert loaded.trainable_variables[2].path != kernel.path
    masks = [[(x.decays, x.adapts) for x in m.optimizer._plan.layers] for m in (model, loaded)]
    assert masks[0] == masks[1] == [(True, True), (True, True), (False, True), (True, False)]
