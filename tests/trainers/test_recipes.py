"""Every flags file in configs/ against its source: the rates of each update, batch, network."""

import functools
import os
import pathlib
import re

import pytest
from absl.testing import flagsaver

from trainers import flags
from trainers.data import DATASETS
from trainers.derived import derive
from trainers.models import MODELS
from trainers.optimizers import OPTIMIZERS
from trainers.schedules import LR_SCHEDULES

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.flags"))
IMAGENET = 1_281_167

# The published tables, row by row: batch, peak rate, epochs of warm-up (and what else a row has).
LARS_PAPER = {
    "alexnet": {
        "512": (512, 2, 2),
        "4k": (4096, 10, 2),
        "8k": (8192, 10, 2),
        "16k": (16384, 14, 2),
        "32k": (32768, 14, 2),
    },
    "alexnet_bn": {
        "512": (512, 2, 5),
        "4k": (4096, 10, 5),
        "8k": (8192, 14, 5),
        "16k": (16384, 23, 5),
        "32k": (32768, 22, 5),
    },
    "resnet50": {
        "256": (256, 4, 0),
        "1k": (1024, 9, 5),
        "8k": (8192, 30, 5),
        "16k": (16384, 33, 12),
        "32k": (32768, 40, 12),
    },
}
LARS_90 = {
    "512": (512, 4, 10 / 64),
    "1k": (1024, 2**2.5, 10 / 32),
    "4k": (4096, 2**3.5, 10 / 8),
    "8k": (8192, 16, 10 / 4),
    "16k": (16384, 2**4.5, 5),
    "32k": (32768, 32, 14),
}
MLPERF = {  # and momentum, decay, epochs
    "1632": (1632, 7.4, 2, 0.9, 5e-5, 35),
    "3264": (3264, 10.5, 2, 0.9, 5e-5, 36),
    "4k": (4096, 10, 5, 0.9, 2e-4, 40),
    "8k": (8192, 17, 5, 0.9, 2e-4, 42),
    "13056": (13056, 12.8, 9, 0.9, 2.5e-5, 46),
    "32k": (32768, 21.2, 16, 0.94, 2.5e-5, 56),
    "48k": (49152, 19.405, 24, 0.951807, 1e-4, 68),
    "64k": (65536, 24.699, 31, 0.951807, 1e-4, 85),
}
GOYAL = {f"{2**n}": 2**n for n in (7, 8, 9)} | {f"{2**n}k": 1024 * 2**n for n in range(7)}
LAMB = {
    "google_32k": (32768, 0.04, 20),
    "4k": (4096, 4 / (2**1.5 * 100), 2.5),
    "8k": (8192, 0.02, 5),
    "16k": (16384, 4 / (2**0.5 * 100), 10),
    "32k": (32768, 0.04, 20),
}


def poly(epoch, peak, warmup, epochs, power, end=0.0, start=0.0):
    """The rate at an epoch: a straight rise, then a power of what is left, from `start` on."""
    if epoch < warmup:
        return peak * epoch / warmup
    return end + (peak - end) * (1 - (epoch - start) / (epochs - start)) ** power


def steps(epoch, batch):
    peak = 0.1 * batch / 256
    first = min(0.1, peak)
    if epoch < 5:
        return first + (peak - first) * epoch / 5
    return peak * 0.1 ** sum(epoch >= milestone for milestone in (30, 60, 80))


def recipes():
    """(file, settings that must hold, function of the epoch that gives the rate)."""
    for model, rows in LARS_PAPER.items():
        for row, (batch, peak, warmup) in rows.items():
            image = 224 if model == "resnet50" else 227
            yield (
                f"{model}_imagenet_lars_paper_{row}",
                {"model": model, "global_batch_size": batch, "epochs": 100, "crop": "lars"}
                | {"momentum": 0.9, "weight_decay": 5e-4, "adapt_1d": True, "image_size": image},
                functools.partial(poly, peak=peak, warmup=warmup, epochs=100, power=2),
            )
    common = {"model": "resnet50", "label_smoothing": 0.1, "optimizer": "lars", "image_size": 224}
    for row, (batch, peak, warmup) in LARS_90.items():
        rate = functools.partial(poly, peak=peak, warmup=warmup, epochs=90, power=2, start=warmup)
        settings = {"global_batch_size": batch, "epochs": 90, "weight_decay": 1e-4, "momentum": 0.9}
        yield f"resnet50_imagenet_lars_{row}", common | settings, rate
    for row, (batch, peak, warmup, momentum, decay, epochs) in MLPERF.items():
        rate = functools.partial(poly, peak=peak, warmup=warmup, epochs=epochs, power=2)
        rate = functools.partial(rate, end=1e-4, start=warmup)
        settings = {"global_batch_size": batch, "momentum": momentum, "weight_decay": decay}
        yield f"resnet50_imagenet_mlperf_{row}", common | settings | {"epochs": epochs}, rate
    for row, batch in GOYAL.items():
        settings = {"global_batch_size": batch, "epochs": 90, "weight_decay": 1e-4, "momentum": 0.9}
        yield (
            f"resnet50_imagenet_sgd_{row}",
            settings | {"optimizer": "sgd", "nesterov": True, "model": "resnet50"},
            functools.partial(steps, batch=batch),
        )
    for row, (batch, peak, warmup) in LAMB.items():
        settings = {"global_batch_size": batch, "epochs": 90, "weight_decay": 1.5}
        settings |= {"optimizer": "lamb", "bias_correction": False, "global_clipnorm": 1.0}
        rate = functools.partial(poly, peak=peak, warmup=warmup, epochs=90, power=1, start=warmup)
        yield f"resnet50_imagenet_lamb_{row}", common | settings, rate


RECIPES = {name: (settings, rate) for name, settings, rate in recipes()}


@functools.cache
def read(name):
    before = os.getcwd()
    os.chdir(ROOT)  # flags files name each other from the root of the repository
    try:
        with flagsaver.flagsaver():
            flags.parse(["train", f"--flagfile=configs/{name}.flags"])
            return flags.read_config()
    finally:
        os.chdir(before)


def schedule_of(config, examples=IMAGENET):
    plan = derive(config, examples, 50_000, 1)
    make = LR_SCHEDULES[config.lr_schedule]
    return plan, make(plan, **config.options_for(make))


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_are_those_of_the_source(name):
    config, (settings, _) = read(name), RECIPES[name]
    assert {key: getattr(config, key) for key in settings} == pytest.approx(settings)
    assert config.dataset == "imagenet2012"


@pytest.mark.parametrize("name", RECIPES)
def test_the_rate_follows_the_source_at_every_part_of_the_run(name):
    config, (_, rate) = read(name), RECIPES[name]
    plan, schedule = schedule_of(config)
    for part in (0.0, 0.004, 0.03, 0.1, 0.31, 0.34, 0.5, 0.66, 0.68, 0.9, 1.0):
        update = min(int(part * plan.updates), plan.updates - 1)
        expected = rate(update / plan.steps_per_epoch)
        # the end of the warm-up is rounded to an update
        tolerance = 0.005 * config.learning_rate * max(config.global_batch_size / 256, 1) ** 0.5
        if config.lr_scaling == "none":
            tolerance = 0.005 * config.learning_rate
        assert float(schedule(update)) == pytest.approx(expected, rel=2e-3, abs=tolerance), update


def test_every_recipe_has_a_file_and_every_imagenet_file_is_a_recipe():
    assert {name for name in FILES if "imagenet" in name} == set(RECIPES)


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_source_and_its_command_on_top(name):
    text = (ROOT / "configs" / f"{name}.flags").read_text()
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert re.search(rf"--flagfile=configs/{name}\.flags", head)
    assert "arXiv" in head or "MLPerf" in head or "You's lab" in head
    if name in RECIPES:
        assert "published" in head
        # so many workers divide the batch
        workers = re.search(r"horovodrun -np (\d+) ", head)
        assert read(name).global_batch_size % (int(workers[1]) if workers else 1) == 0


@pytest.mark.parametrize("name", FILES)
def test_every_file_builds_its_optimizer(name):
    config = read(name)
    examples = IMAGENET if "imagenet" in name else 1437
    _, schedule = schedule_of(config, examples)
    make = OPTIMIZERS[config.optimizer]
    optimizer = make(**config.options_for(make) | {"learning_rate": schedule})
    assert float(optimizer.learning_rate) == pytest.approx(float(schedule(0)))


@functools.cache
def built(model, image_shape, classes):
    return MODELS[model](image_shape, classes)


@pytest.mark.parametrize("name", FILES)
def test_every_file_builds_its_network(name):
    config = read(name)
    make = DATASETS[config.dataset]
    assert make(**config.options_for(make))
    shape, classes = (8, 8, 1), 10
    if config.dataset == "imagenet2012":
        shape, classes = (config.image_size, config.image_size, 3), 1000
    assert built(config.model, shape, classes).output_shape == (None, classes)
