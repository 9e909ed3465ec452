"""What `trainers.plan` prints and writes, and what it refuses."""

import dataclasses
import math
import re
import types

import keras
import pytest
from absl.testing import flagsaver

from tests.trainers.small_runs import tiny_network
from trainers import cost_model, flags, footprint, plan, recipes
from trainers.derived import derive
from trainers.errors import ConfigError
from trainers.forecast import Network, forecast
from trainers.loop import build
from trainers.startup import Workers

IMAGENET = ["--model=resnet50", "--dataset=imagenet2012"]
DIGITS = ["--model=resnet20", "--dataset=digits"]
NETWORK = Network(bandwidth=1e9, hop=1e-5, call=1e-3)


@pytest.fixture(autouse=True)
def no_threads_to_set(monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")  # TensorFlow runs already


def printed(capsys, *arguments):
    """{first word: rest} of what the command prints."""
    with flagsaver.flagsaver():
        flags.parse(["plan", *arguments])
        plan.plan([])
    out = capsys.readouterr().out
    pairs = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in out.splitlines()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2} | {"whole": out}


def test_a_published_batch_gets_the_published_recipe(capsys, tmp_path):
    file = tmp_path / "run.flags"
    lines = printed(
        capsys,
        *(*IMAGENET, "--workers=64", "--batch_per_worker=256", "--optimizer=lars"),
        *("--images_per_second=2560", "--network_gbit=100", f"--write_flags={file}"),
    )
    recipe = recipes.read_recipes()["resnet50_imagenet_lars_16k"]
    assert lines["Recipe"].startswith("resnet50_imagenet_lars_16k: ResNet-50 on ImageNet")
    assert "published top-1 76.96 % by You's lab" in lines["whole"]
    assert lines["Length"] == "90 epochs of 1,281,167 images, 7,020 updates"
    assert lines["Batch"] == "16,384 = 64 workers × 256"
    # 0.1 s of work; 1 ms and 126 hops of 30 µs and 2·63/64 · 102.2 MB at 12.5 GB/s
    exchange = 1e-3 + 126 * 30e-6 + 2 * 63 / 64 * 4 * 25_557_032 / 12.5e9
    assert lines["Step"].startswith(f"0.1 s, then {exchange:.4g} s")
    assert lines["Efficiency"].startswith(f"{0.1 / (0.1 + exchange):.1%} of 64 workers")
    assert lines["Time"].startswith(f"{7020 * (0.1 + exchange) / 3600:.3g} hours")
    assert flags.read_file(file) == recipe.config
    assert f"horovodrun -np 64 python -m trainers.train --flagfile={file}" in file.read_text()


def test_the_flags_file_of_a_moved_recipe_builds(capsys, tmp_path):
    file = tmp_path / "run.flags"
    arguments = (*DIGITS, "--workers=2", "--batch_per_worker=64", "--optimizer=lars", "--seed=3")
    lines = printed(capsys, *arguments, "--epochs=40", f"--write_flags={file}")
    assert "moved from batch 512 to 128: the rate by the square root" in lines["whole"]
    assert "far from what was published" in lines["whole"]
    assert "measured here on random images" in lines["Speed"]
    config = flags.read_file(file)
    assert (config.seed, config.epochs, config.global_batch_size) == (3, 40, 128)
    numbers = derive(config, 1437, 360, 2)
    recipe = recipes.read_recipes()["digits_resnet20_lars_b512"].config
    assert numbers.peak_learning_rate == pytest.approx(recipe.learning_rate / 2)
    assert numbers.warmup_updates == round(recipe.warmup_epochs / 4 * numbers.steps_per_epoch)
    data = types.SimpleNamespace(image_shape=(8, 8, 1), classes=10)
    model, schedule = build(config, numbers, data, Workers())
    assert float(schedule(numbers.warmup_updates)) == pytest.approx(numbers.peak_learning_rate)
    assert model.output_shape == (None, 10)


def test_micro_batches_are_no_larger_than_what_a_worker_takes(capsys):
    lines = printed(
        capsys,
        *("--model=wide_resnet16_4", "--dataset=cifar10", "--workers=4", "--batch_per_worker=64"),
        "--images_per_second=1000",
    )
    assert lines["Batch"] == "256 = 4 workers × 64; 1,280 from epoch 60; 5,120 from epoch 120"


def test_the_fewest_workers_that_train_in_the_time_are_chosen(capsys):
    speed = ["--batch_per_worker=32", "--images_per_second=100", "--epochs=30"]
    lines = printed(capsys, *DIGITS, *speed, "--target_hours=0.07")
    # 1437 · 30 images at 100 a second: 0.12 hours on one worker, 0.06 on two
    assert "of 2 workers" in lines["Efficiency"]
    assert float(lines["Time"].split()[0]) < 0.07
    with pytest.raises(ConfigError, match=r"--target_hours=0.0001 is out of reach: the best is"):
        printed(capsys, *DIGITS, *speed, "--target_hours=0.0001")


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (("resnet50", "imagenet2012", 8192, "sgd"), "resnet50_imagenet_sgd_8k"),
        (("resnet50", "imagenet2012", 30000, None), "resnet50_imagenet_lars_32k"),
        (("alexnet_bn", "imagenet2012", 16000, None), "alexnet_bn_imagenet_lars_paper_16k"),
        (("resnet34", "imagenet2012", 4096, "lars"), "resnet50_imagenet_lars_4k"),
        (("resnet50", "image_folder", 4096, "lars"), "resnet50_imagenet_lars_4k"),
        (("wide_resnet28_10", "cifar10", 128, None), "cifar10_wide_resnet_smith_grow"),
        (("resnet56", "cifar10", 128, None), "cifar10_resnet20_sgd_128"),
    ],
)
def test_the_nearest_recipe_is_found(wanted, name):
    assert recipes.nearest(*wanted).name == name


def test_with_a_target_the_recipe_of_fewest_epochs_that_reaches_it_is_found():
    found = recipes.nearest("resnet50", "imagenet2012", 4096, target=0.759)
    assert found.name == "resnet50_imagenet_mlperf_3264"  # 36 epochs, as near as 4,096's 40
    found = recipes.nearest("resnet50", "imagenet2012", 4096, target=0.765)
    assert found.config.epochs == 90 and found.published >= 76.5


def test_a_recipe_moved_to_another_data_set_keeps_what_that_takes():
    recipe = recipes.read_recipes()["resnet50_imagenet_lars_4k"]
    config = recipes.moved(recipe, "resnet50", "cifar10", 4096)
    assert (config.image_size, config.crop, config.dataset) == (None, None, "cifar10")
    config = recipes.moved(recipe, "resnet50", "synthetic", 8192, ["image_size"])
    assert (config.image_size, config.crop) == (224, None)
    assert (config.lr_scaling, config.base_batch_size) == ("legw", 4096)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model must be given"),
        (["--model=resnet50"], "--dataset must be given"),
        (IMAGENET, "--batch_per_worker must be given"),
        ([*IMAGENET, "--batch_per_worker=2"], "give either --workers or --target_hours"),
        (
            [*IMAGENET, "--batch_per_worker=2", "--workers=2", "--target_hours=3"],
            "give either --workers or --target_hours",
        ),
        (["--model=resnet5", "--dataset=digits", "--batch_per_worker=1"], "--model=resnet5 is unk"),
        ([*DIGITS, "--workers=1", "--batch_per_worker=9999"], "at most the 1437 training examples"),
        ([*DIGITS, "--workers=0", "--batch_per_worker=1"], "--workers=0"),
        (
            [*DIGITS, "--workers=1", "--batch_per_worker=8", "--images_per_second=0"],
            "--images_per_second must be greater than 0 and finite; got 0",
        ),
        (
            [*DIGITS, "--workers=1", "--batch_per_worker=8", "--global_batch_size=8"],
            "--global_batch_size=8: it is --workers times --batch_per_worker",
        ),
        (
            [*DIGITS, "--workers=1", "--batch_per_worker=8", "--run_dir=runs/mine"],
            "--run_dir belongs to the start of a run, not to its plan: give it to trainers.train",
        ),
        (
            [*DIGITS, "--workers=1", "--batch_per_worker=8", "--elastic"],
            "--elastic belongs to the start of a run, not to its plan: give it to trainers.train",
        ),
        (
            [*DIGITS, "--workers=1", "--batch_per_worker=8", "--write_flags=README.md"],
            "--write_flags=README.md exists",
        ),
        (
            [*DIGITS, "--workers=1", "--batch_per_worker=8", "--target_top1=0.99"],
            "no recipe in configs/ has --target_top1=0.99",
        ),
    ],
)
def test_what_cannot_be_planned_is_said_before_anything_is_built(
    arguments, message, capsys, monkeypatch
):
    monkeypatch.setattr(plan.Candidate, "model", None)
    with pytest.raises(ConfigError, match=re.escape(message)):
        printed(capsys, *arguments)


def test_parameters_gradients_and_state_are_counted():
    model = tiny_network((8, 8, 1), 4)
    model.compile(keras.optimizers.Adam())
    found = footprint.footprint(model, 10, "none")
    trained = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert found.gradients == 4 * trained
    assert found.parameters == 4 * (trained + 8)  # and BatchNorm's statistics
    assert found.state == 4 * 2 * trained + 4 + 8  # two moments, the rate, the iteration
    # inputs of convolution, BatchNorm and dense layer, output of the activation function
    assert found.activations == 4 * 10 * (64 + 36 + 36 + 36)
    assert footprint.footprint(model, 10, "bfloat16").activations == found.activations / 2


def test_a_growing_batch_is_forecast_stage_by_stage():
    config = recipes.read_recipes()["cifar10_wide_resnet_smith_grow"].config
    numbers = derive(config, 50_000, 10_000, 1)
    seconds = 3600 * forecast(numbers, 1000, 1e6, NETWORK).hours
    assert seconds == pytest.approx(200 * 50, rel=0.01)  # images a second do not change
    config = dataclasses.replace(config, micro_batch_size=64)
    one, two = (forecast(derive(config, 50_000, 1, n), 1000, 1e6, NETWORK) for n in (1, 2))
    assert one.exchange == 0.0 and one.efficiency == 1.0
    assert two.exchange == pytest.approx(1e-3 + 2e-5 + 1e6 / 1e9)


def test_the_cost_of_an_exchange_is_predicted():
    seconds = cost_model.ring_seconds(4, 1e6, fixed=1e-3, bandwidth=1e9, hop=1e-5)
    assert seconds == pytest.approx(1e-3 + 6e-5 + 1.5e-3)
    assert cost_model.efficiency(3.0, 1.0) == 0.75
