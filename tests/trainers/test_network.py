"""A new last layer behind a frozen network."""

import json

import keras
import numpy as np
import pytest

from tests.trainers.small_runs import config, stripes, tiny_network, train
from trainers.errors import ConfigError
from trainers.evaluation import Evaluator
from trainers.models import MODELS
from trainers.network import load_network, network
from trainers.startup import Workers

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """The file of a network for another number of classes."""
    keras.utils.set_random_seed(1)
    file = tmp_path_factory.mktemp("backbone") / "backbone.keras"
    tiny_network((8, 8, 1), 7).save(file)
    return file


def test_only_the_new_layer_is_trained(backbone, tmp_path):
    folder = tmp_path / "run"
    summary = train(folder, probe_of=str(backbone), epochs=10)
    before, after = load_network(backbone), load_network(folder / "final.keras")
    assert after.output_shape == (None, 4)
    for name in ("conv2d", "batch_normalization"):
        old, new = (
            next(x for x in m.layers if x.name.startswith(name)).get_weights()
            for m in (before, after)
        )
        for one, other in zip(old, new, strict=True):
            np.testing.assert_array_equal(one, other)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < 0.9 * losses[0]
    result = Evaluator(after, stripes(), 20, Workers())()
    assert result["top1"] == pytest.approx(summary["final_top1"])


def test_the_probe_normalises_its_features_without_a_scale(backbone):
    model = network(config(probe_of=str(backbone)), (8, 8, 1), 4)
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"logits"}
    statistics = model.get_layer("probe_bn").weights
    assert [weight.path.split("/")[-1] for weight in statistics] == [
        "moving_mean",
        "moving_variance",
    ]


@pytest.mark.parametrize("name", ["resnet20", "alexnet_bn", "mobilenet_v1_0.25"])
def test_networks_of_all_kinds_can_be_probed(name, tmp_path):
    side = 67 if name == "alexnet_bn" else 32
    MODELS[name]((side, side, 3), 5).save(tmp_path / "x.keras")
    model = network(config(model=name, probe_of=str(tmp_path / "x.keras")), (side, side, 3), 10)
    assert model.output_shape == (None, 10)
    assert len(model.trainable_variables) == 2


@pytest.mark.parametrize(
    ("file", "content", "shape", "message"),
    [
        ("none.keras", None, (8, 8, 1), "is no file: give a network, FILE.keras"),
        ("bad.keras", b"text", (8, 8, 1), "cannot be loaded"),
        (None, None, (9, 8, 1), "does not hold a network of --model=tiny for images of 9×8×1"),
    ],
)
def test_a_file_that_cannot_be_probed_is_named(backbone, tmp_path, file, content, shape, message):
    path = tmp_path / file if file else backbone
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--probe_of={path} {message}"):
        network(config(probe_of=str(path)), shape, 4)
