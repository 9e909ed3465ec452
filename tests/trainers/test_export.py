"""The network of a finished run, written for others and loaded again."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from tests.trainers.small_runs import stripes, tiny_network, train
from trainers import command, export, flags
from trainers.errors import ConfigError
from trainers.models import MODELS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose averages differ from its weights."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", tiny_network)
        train(folder, ema_momentum=0.9)
    return folder


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", tiny_network)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")  # TensorFlow runs already


def call(*arguments):
    with flagsaver.flagsaver():
        flags.parse(["export", *arguments])
        export.export([])


def expected(run):
    images = stripes().test[0]
    return images, keras.models.load_model(run / "final.keras")(images)


def test_a_saved_model_gives_the_outputs_of_the_run(run, tmp_path, capsys):
    output = tmp_path / "new" / "model"
    call(f"--run_dir={run}", "--format=saved_model", f"--output={output}")
    images, logits = expected(run)
    loaded = tf.saved_model.load(output)
    np.testing.assert_allclose(loaded.serve(images), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loaded.serve(images[:1]), logits[:1], rtol=1e-4, atol=1e-5)
    assert "tiny for images of 8×8×1" in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == ["model"]


def test_a_keras_file_gives_the_outputs_of_the_run(run, tmp_path):
    output = tmp_path / "model.keras"
    call(f"--run_dir={run}", "--format=keras", f"--output={output}")
    images, logits = expected(run)
    np.testing.assert_array_equal(keras.models.load_model(output)(images), logits)


@pytest.mark.parametrize("model", ["alexnet", "resnet20", "mobilenet_v1_0.25"])
def test_networks_with_layers_of_our_own_survive(run, tmp_path, model, monkeypatch):
    side = 67 if model == "alexnet" else 32
    network = MODELS[model]((side, side, 3), 4)
    network.save(tmp_path / "final.keras")
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    for name, output in (("saved_model", "folder"), ("keras", "x.keras")):
        call(f"--run_dir={tmp_path}", f"--format={name}", f"--output={tmp_path / output}")
    images = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype("float32")
    loaded = tf.saved_model.load(tmp_path / "folder")
    np.testing.assert_allclose(loaded.serve(images), network(images), rtol=1e-3, atol=1e-5)


def test_a_network_that_came_out_different_is_not_kept(run, tmp_path, monkeypatch):
    def spoiled(folder):
        loaded = tf.saved_model.load(folder)
        return lambda images: loaded.serve(images) + 0.01

    monkeypatch.setitem(export._FORMATS, "saved_model", (export._write_saved_model, spoiled))
    with pytest.raises(RuntimeError, match=r"differ from the original's by 0\.01"):
        call(f"--run_dir={run}", f"--output={tmp_path / 'model'}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=x"], "--run_dir must be given: the folder of a run"),
        (["--run_dir={empty}", "--output=x"], "--run_dir={empty} holds no run"),
        (["--run_dir={run}"], "--output must be given"),
        (["--run_dir={run}", "--format=keras", "--output=x.h5"], "--output=x.h5 must end in .kera"),
        (["--run_dir={run}", "--output={run}"], "--output={run} exists"),
        (["--run_dir={run}", "--format=onnx"], "--format=onnx: value should be one of <keras|sav"),
    ],
)
def test_what_cannot_be_exported_is_said(run, tmp_path, arguments, message):
    places = {"run": run, "empty": tmp_path}
    with pytest.raises(ConfigError) as caught:
        call(*(argument.format(**places) for argument in arguments))
    assert message.format(**places) in str(caught.value)


def test_the_command_ends_with_2_and_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["export"])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        command.run("trainers.export", export.export, flags.parse)
    assert ended.value.code == command.BAD_SETTINGS
    assert capsys.readouterr().err.startswith("trainers.export: --run_dir must be given")
