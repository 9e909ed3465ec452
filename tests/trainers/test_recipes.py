"""Every flags file in configs/ against its source: the rates of each update, batch, network."""

import functools
import math
import pathlib
import re

import pytest

from trainers import flags, recipe_table
from trainers.data import DATASETS
from trainers.data.known import KNOWN
from trainers.derived import derive
from trainers.models import MODELS
from trainers.optimizers import OPTIMIZERS
from trainers.schedules import LR_SCHEDULES

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.flags"))

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
CLARS = {"resnet50": (4096, 8192, 16384), "densenet121": (16384,), "mobilenet_v1": (16384,)}
SMITH = {  # rate, batches of the four stages, updates
    "decay": (0.1, (128,), 78_200),
    "hybrid": (0.1, (128, 640, 640, 640), 34_400),
    "grow": (0.1, (128, 640, 3200, 5120), 29_000),
    "grow_640": (0.5, (640, 3200, 5120, 5120), 6_500),
    "grow_3200": (0.5, (3200, 6400, 6400, 6400), 2_500),
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

    for model, batches in CLARS.items():
        for batch in batches:
            peak = 0.128 * batch / 256
            settings = {"optimizer": "clars", "momentum": 0.9, "weight_decay": 2e-4, "epochs": 90}
            settings |= {"trust_coefficient": 0.01, "max_trust_ratio": 0.1, "model": model}
            yield (
                f"{model}_imagenet_clars_{batch // 1024}k",
                settings | {"global_batch_size": batch},
                functools.partial(poly, peak=peak, warmup=0, epochs=90, power=2, end=1e-4),
            )
    yield (
        "resnet50_imagenet_nesterov_32k",
        {"optimizer": "sgd", "nesterov": True, "global_batch_size": 32768, "epochs": 64}
        | {"momentum": 1 - 0.02397, "weight_decay": 5.8e-5, "label_smoothing": 0.15},
        functools.partial(poly, peak=7.05, warmup=18, epochs=64, power=2, end=6e-6, start=18),
    )
    yield (
        "resnet50_imagenet_lars_linear_probe_16k",
        {"optimizer": "lars", "momentum": 0.9, "weight_decay": 0, "momentum_rule": "trust_scaled"}
        | {"denominator": "joint", "global_batch_size": 16384, "epochs": 90},
        probe,
    )
    yield (
        "cifar10_resnet20_sgd_128",
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "global_batch_size": 128}
        | {"model": "resnet20", "random_shift": 4, "random_flip": True},
        lambda epoch: 0.1 * 0.1 ** sum(391 * epoch >= update for update in (32_000, 48_000)),
    )
    for row, (peak, batches, _) in SMITH.items():
        settings = {"model": "wide_resnet16_4", "momentum": 0.9, "epochs": 200, "optimizer": "sgd"}
        settings |= {"micro_batch_size": 128, "global_batch_size": batches[0]}
        momentum = {"momentum": 0.98} if row == "grow_3200" else {}
        rate = functools.partial(grown, peak=peak, batches=batches)
        yield f"cifar10_wide_resnet_smith_{row}", settings | momentum, rate


def probe(epoch):
    peak = 0.1 * 16384 / 256
    if epoch < 10:
        return peak * epoch / 10
    return peak * (1 + math.cos(math.pi * (epoch - 10) / 80)) / 2


def grown(epoch, peak, batches):
    """The noise scale rate/batch falls to a fifth at each milestone, whatever the batch does."""
    stage = sum(epoch >= milestone for milestone in (60, 120, 160))
    batch = batches[stage] if len(batches) > 1 else batches[0]
    return peak * 0.2**stage * batch / batches[0]


RECIPES = {name: (settings, rate) for name, settings, rate in recipes()}


@functools.cache
def read(name):
    return flags.read_file(f"configs/{name}.flags")


def schedule_of(config):
    plan = derive(config, KNOWN[config.dataset].train, KNOWN[config.dataset].test, 1)
    make = LR_SCHEDULES[config.lr_schedule]
    return plan, make(plan, **config.options_for(make))


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_are_those_of_the_source(name):
    config, (settings, _) = read(name), RECIPES[name]
    assert {key: getattr(config, key) for key in settings} == pytest.approx(settings)
    assert config.dataset == ("imagenet2012" if "imagenet" in name else "cifar10")


@pytest.mark.parametrize("name", RECIPES)
def test_the_rate_follows_the_source_at_every_part_of_the_run(name):
    config, (_, rate) = read(name), RECIPES[name]
    plan, schedule = schedule_of(config)
    for part in (0.0, 0.004, 0.03, 0.1, 0.31, 0.34, 0.5, 0.66, 0.68, 0.9, 1.0):
        update = min(plan.timetable.update_at(part * config.epochs), plan.updates - 1)
        # with a batch that grows, an epoch is not always as many updates
        epoch = update / plan.steps_per_epoch
        if len(plan.batches) > 1:
            epoch = part * config.epochs if part < 1 else config.epochs - 1
        expected = rate(epoch)
        # the end of the warm-up is rounded to an update
        tolerance = 0.005 * config.learning_rate * max(config.global_batch_size / 256, 1) ** 0.5
        if config.lr_scaling == "none":
            tolerance = 0.005 * config.learning_rate
        assert float(schedule(update)) == pytest.approx(expected, rel=2e-3, abs=tolerance), update


def test_every_recipe_has_a_file_and_every_imagenet_file_is_a_recipe():
    assert {name for name in FILES if not name.startswith("digits")} == set(RECIPES)


@pytest.mark.parametrize("row", SMITH)
def test_smiths_batches_grow_as_published(row):
    _, batches, updates = SMITH[row]
    plan, _ = schedule_of(read(f"cifar10_wide_resnet_smith_{row}"))
    assert plan.batches == batches
    assert 0.8 * updates < plan.updates < 1.01 * updates


def test_the_table_in_the_documentation_is_that_of_the_files():
    assert (ROOT / "docs" / "configs.md").read_text() == recipe_table.table()


def test_every_recipe_is_in_the_table_once_with_what_its_source_reports():
    rows = [line for line in recipe_table.table().splitlines() if line.startswith("| `")]
    assert sorted(re.match(r"\| `(\w+)`", row)[1] for row in rows) == FILES
    (row,) = [row for row in rows if "`resnet50_imagenet_lars_32k`" in row]
    assert row.endswith("| resnet50 | lars | 32,768 | 32 | 14 | 90 | 76.75 |")
    without = {row.split("`")[1] for row in rows if row.endswith("| – |")}
    assert {re.sub("_[0-9a-z]*$", "", name) for name in without} == {
        *("digits_resnet20_lars", "digits_resnet20_sgd", "digits_resnet20_smith"),
        *("cifar10_wide_resnet_smith",),
        *("resnet50_imagenet_lars_linear_probe", "resnet50_imagenet_clars"),
        *("densenet121_imagenet_clars", "mobilenet_v1_imagenet_clars"),
    }


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
    _, schedule = schedule_of(config)
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
    data = KNOWN[config.dataset]
    shape, classes = data.image_shape or (config.image_size, config.image_size, 3), data.classes
    assert built(config.model, shape, classes).output_shape == (None, classes)
