"""Averages of the weights, number formats, compilation, and training to an accuracy."""

import json
import time

import keras
import numpy as np
import pytest

from tests import workers as jobs
from tests.trainers.small_runs import SETTINGS, stripes, tiny_network, train
from trainers import loop, precision
from trainers.averages import averaged_weights
from trainers.config import TrainConfig
from trainers.data.arrays import ArrayDataSet
from trainers.errors import ConfigError
from trainers.evaluation import Evaluator
from trainers.models import MODELS
from trainers.startup import Workers
from trainers.target import reached

job = jobs.Job(2)


pytestmark = pytest.mark.usefixtures("tiny_model")


def final_weights(folder):
    return keras.models.load_model(folder / "final.keras").get_weights()


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_top5_is_measured_in_training_and_in_evaluation(tmp_path):
    images, labels = stripes().train
    data = ArrayDataSet("eight", 8, (images, labels), (images[:25], labels[:25]))
    settings = SETTINGS | {"epochs": 2, "run_dir": str(tmp_path)}
    summary = loop.train(TrainConfig(**settings), data, Workers(), time.time())
    last = rows(tmp_path)[-1]
    assert 0 < last["top1"] <= last["top5"] <= 1
    assert summary["final_top5"] == last["val_top5"] >= last["val_top1"]


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged") / "run"
    return folder, train(folder, optimizer="lars", learning_rate=1.0, ema_momentum=0.5)


def test_averages_of_the_weights_are_evaluated_and_exported(averaged, tmp_path, monkeypatch):
    folder, summary = averaged
    seen = []  # the weights after every update, from the same run without averages

    class Weights(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([v.numpy() for v in self.model.trainable_variables])

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_synchronisation", lambda *arguments: [Weights()])
        train(tmp_path / "plain", optimizer="lars", learning_rate=1.0)
    averages = seen[0]
    for weights in seen[1:]:
        averages = [0.5 * a + 0.5 * w for a, w in zip(averages, weights, strict=True)]
    network = keras.models.load_model(folder / "final.keras")
    for expected, variable in zip(averages, network.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-6)
    result = Evaluator(network, stripes(), 20, Workers())()
    assert result["top1"] == pytest.approx(summary["final_top1"])
    assert result["loss"] == pytest.approx(rows(folder)[-1]["val_loss"], rel=1e-5)


def test_evaluating_the_averages_leaves_training_as_it_was(averaged, tmp_path):
    folder, _ = averaged
    train(tmp_path / "run", optimizer="lars", learning_rate=1.0, ema_momentum=0.5, eval_every=4)
    for one, other in zip(final_weights(folder), final_weights(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_weights_come_back_even_when_the_evaluation_fails():
    model = tiny_network((8, 8, 1), 4)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, use_ema=True))
    model.compile(optimizer, "mse")
    images = np.ones((4, 8, 8, 1), "float32")
    model.fit(images, np.zeros((4, 4)), batch_size=1, epochs=2, verbose=0)
    # `fit` ends with the averages: train on, so that they differ from the weights
    for variable in model.trainable_variables:
        variable.assign(variable + 1.0)
    before = model.get_weights()
    with pytest.raises(RuntimeError), averaged_weights(model):
        assert not np.array_equal(model.get_weights()[0], before[0])
        raise RuntimeError
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "scaled"), [("bfloat16", False), ("float16", True)])
def test_a_run_in_mixed_precision_keeps_float32_variables(tmp_path, name, scaled, monkeypatch):
    compiled = []
    original = keras.Model.fit

    def fit(self, *arguments, **options):
        compiled.append(self)
        return original(self, *arguments, **options)

    monkeypatch.setattr(keras.Model, "fit", fit)
    summary = train(tmp_path / "run", mixed_precision=name)
    (model,) = compiled
    assert model.layers[0].compute_dtype == name
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) is scaled
    assert summary["final_top1"] > 0.5  # four classes
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("model", ["resnet20", "resnet18", "alexnet_bn", "densenet121"])
def test_logits_are_float32_in_mixed_precision(model):
    with precision.precision("bfloat16"):
        side = 67 if model.startswith("alexnet") else 32
        network = MODELS[model]((side, side, 3), 10)
    assert network.output.dtype == "float32"
    assert network.layers[1].compute_dtype == "bfloat16"


def test_the_step_is_compiled_by_device(monkeypatch):
    import tensorflow as tf

    assert not precision.compiles("auto")  # the tests have no GPU
    assert precision.compiles("on") and not precision.compiles("off")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert precision.compiles("auto")


def test_a_compiled_step_makes_the_same_updates(tmp_path, monkeypatch):
    def network(image_shape, classes):  # XLA draws other dropout masks
        layers = tiny_network(image_shape, classes).layers
        return keras.Sequential([keras.Input(image_shape), *layers[:3], *layers[4:]])

    monkeypatch.setitem(MODELS, "resnet20", network)
    for name, jit_compile in (("plain", "off"), ("compiled", "on")):
        train(tmp_path / name, model="resnet20", epochs=2, jit_compile=jit_compile)
    for one, other in zip(
        final_weights(tmp_path / "plain"), final_weights(tmp_path / "compiled"), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_training_stops_at_the_target_and_says_when(tmp_path, capsys):
    folder = tmp_path / "run"
    summary = train(folder, epochs=20, eval_every=1, target_top1=0.6)
    done = rows(folder)
    assert summary["epochs"] == summary["epochs_to_target"] == len(done) < 20
    assert done[-1]["val_top1"] >= 0.6 > max([0.0, *(row["val_top1"] for row in done[:-1])])
    assert summary["seconds_to_target"] == done[-1]["seconds"] <= summary["wall_seconds"]
    assert "The target of 60.00% was reached after" in capsys.readouterr().out


def test_a_run_killed_between_the_target_and_its_summary_ends_without_training_on(tmp_path):
    folder = tmp_path / "run"
    first = train(folder, epochs=20, eval_every=1, target_top1=0.6)
    weights = final_weights(folder)
    for name in ("summary.json", "final.keras"):
        (folder / name).unlink()
    again = train(folder, epochs=20, eval_every=1, target_top1=0.6)
    assert again["seconds_to_target"] == first["seconds_to_target"]
    assert again["updates"] == first["updates"]
    for one, other in zip(weights, final_weights(folder), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_target_out_of_reach_is_said(tmp_path, capsys):
    summary = train(tmp_path / "run", epochs=1, target_top1=1.0, learning_rate=1e-6)
    assert summary["seconds_to_target"] is None and summary["target_top1"] == 1.0
    assert "The target of 100.00% was not reached" in capsys.readouterr().out


def test_the_first_row_at_the_target_counts():
    history = [{"val_top1": 0.5}, {"loss": 1}, {"val_top1": 0.8, "n": 3}, {"val_top1": 0.9}]
    assert reached(history, 0.8)["n"] == 3
    assert reached(history, 0.95) is None and reached(history, None) is None
    assert reached([{"val_top1": None}], 0.1) is None  # of a run that diverged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_top1": 75.9}, "--target_top1 must be at most 1; got 75.9"),
        ({"target_top1": 0.0}, "--target_top1 must be greater than 0; got 0.0"),
        ({"ema_momentum": 1.0}, "--ema_momentum must be at most 0.999999; got 1.0"),
        ({"mixed_precision": "float8"}, "--mixed_precision=float8 is unknown"),
        ({"jit_compile": "yes"}, "--jit_compile=yes is unknown.* Allowed: auto, on, off"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**SETTINGS | {"model": "resnet20"} | changes)


@job.check
def test_two_workers_agree_with_averages_float16_and_a_target():
    import tempfile

    import tf_lars.horovod as hvd

    MODELS["tiny"] = tiny_network
    workers = Workers(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), hvd)
    folder = workers.broadcast(tempfile.mkdtemp())
    settings = SETTINGS | {"run_dir": folder, "epochs": 20, "eval_every": 1, "target_top1": 0.6}
    settings |= {"mixed_precision": "float16", "ema_momentum": 0.5}
    summary = loop.train(TrainConfig(**settings), stripes(), workers, time.time())
    assert summary["seconds_to_target"] and summary["epochs"] < 20
    assert workers.sum(np.array([summary["final_top1"]]))[0] == 2 * summary["final_top1"]


@job.check
def test_two_workers_train_with_a_compiled_step():
    import tempfile

    import tf_lars.horovod as hvd

    MODELS["tiny"] = tiny_network
    workers = Workers(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), hvd)
    folder = workers.broadcast(tempfile.mkdtemp())
    settings = SETTINGS | {"run_dir": folder, "epochs": 2, "jit_compile": "on"}
    summary = loop.train(TrainConfig(**settings), stripes(), workers, time.time())
    assert summary["updates"] == 6 and not summary["diverged"]
