"""Micro-batches, growing batches, mean norms and the noise scale in the trainers."""

import json

import keras
import numpy as np
import pytest

from tests.trainers.small_runs import config, tiny_network, train
from trainers.derived import derive
from trainers.errors import ConfigError
from trainers.models import MODELS
from trainers.schedules import LR_SCHEDULES

STEP = {"lr_schedule": "step", "epochs": 8, "lr_milestones": (4.0, 6.0), "lr_factor": 0.2}
GROW = STEP | {"grow_batch_factor": 5.0}


def plan_of(examples=1437, workers=1, **changes):
    settings = config(**({"model": "resnet20"} | changes))
    plan = derive(settings, examples, 360, workers)
    make = LR_SCHEDULES[settings.lr_schedule]
    return plan, make(plan, **settings.options_for(make))


def test_the_batch_grows_at_the_milestones_and_the_rate_takes_what_the_cap_leaves():
    plan, rate = plan_of(global_batch_size=32, max_batch_size=352, learning_rate=0.5, **GROW)
    assert plan.batches == (32, 160, 352) and plan.steps_per_epoch == 45
    assert plan.timetable.ends == (45, 90, 135, 180, 189, 198, 202, 206)
    assert plan.updates == 206
    rates = [0.5, 0.5, 0.5 * 0.2 * 352 / 160]
    for update, expected in ((0, 0), (179, 0), (180, 1), (197, 1), (198, 2), (205, 2)):
        assert float(rate(update)) == pytest.approx(rates[expected])


def test_the_noise_of_a_growing_batch_is_that_of_the_decay_in_every_epoch():
    grown, rate = plan_of(global_batch_size=32, max_batch_size=352, learning_rate=0.5, **GROW)
    decay, decayed = plan_of(global_batch_size=32, learning_rate=0.5, **STEP)
    for epoch in range(8):
        update, other = (plan.timetable.ends[epoch] - 1 for plan in (grown, decay))
        ours = float(rate(update)) / grown.timetable.batch(update)
        assert ours == pytest.approx(float(decayed(other)) / 32, rel=1e-6)


def test_a_batch_grows_alike_on_any_number_of_workers():
    settings = {"global_batch_size": 32, "max_batch_size": 352, **GROW}
    assert plan_of(workers=4, **settings)[0].batches == plan_of(**settings)[0].batches


def test_batch_norm_remembers_as_many_updates_whatever_the_micro_batch():
    whole, parts = (
        plan_of(global_batch_size=512, epochs=60, micro_batch_size=m)[0] for m in (None, 64)
    )
    assert whole.bn_momentum == pytest.approx(1 - 10 / 180)
    assert parts.bn_momentum == pytest.approx(0.99)
    assert (whole.bn_updates, parts.bn_updates) == (3, 22)


@pytest.mark.parametrize(
    ("changes", "workers", "message"),
    [
        ({"micro_batch_size": 21}, 1, "--micro_batch_size=21 must be at most the 20 examples"),
        (
            {"micro_batch_size": 11},
            2,
            "--micro_batch_size=11 must be at most the 10 examples that each of the 2 workers",
        ),
        ({"micro_batch_size": 0}, 1, "--micro_batch_size must be at least 1; got 0"),
        ({"noise_scale": True}, 1, "--noise_scale: .* one micro-batch of 20 .* at most 10"),
        ({"optimizer": "clars"}, 1, "--mean_norms=microbatch: .*micro_batch_size is not set"),
        (
            {"optimizer": "clars", "mean_norms": "two_batch", "micro_batch_size": 20},
            1,
            "--mean_norms=two_batch: .*micro_batch_size is 20",
        ),
        ({"optimizer": "clars", "mean_norms": "worker"}, 1, "needs several workers"),
        ({"mean_norms": "worker"}, 2, "--mean_norms=worker has no effect with --optimizer=sgd"),
        ({"max_batch_size": 40}, 1, "--max_batch_size=40 has no effect"),
        ({"grow_batch_factor": 5.0}, 1, "--grow_batch_factor=5.0 has no effect with --lr_schedule"),
        (GROW | {"grow_batch_factor": 1.0}, 1, "--grow_batch_factor must be greater than 1; got 1"),
        (GROW | {"lr_factor": 2.0, "max_batch_size": 40}, 1, "--lr_factor=2 must be below 1"),
        (GROW | {"max_batch_size": 1438}, 1, "--max_batch_size=1438 must be at most the 1437"),
        (GROW | {"max_batch_size": 39}, 1, "--max_batch_size=39 must be at least 40"),
        (
            GROW | {"global_batch_size": 80},
            1,
            r"a tenth of the examples \(143\), must be at least 160",
        ),
        (
            {**GROW, "lr_milestones": (0.2, 7.5), "global_batch_size": 600, "max_batch_size": 1400},
            1,
            "--lr_milestones=.* must be different|would have no update",
        ),
        ({"layer_report_every": 5}, 1, "--layer_report_every=5 has no effect with --optimizer=sgd"),
        ({"checkpoint_every": "soon"}, 1, "--checkpoint_every takes a number of updates"),
        ({"keep_checkpoints": 0}, 1, "--keep_checkpoints must be at least 1; got 0"),
    ],
)
def test_what_cannot_work_is_refused_before_training(changes, workers, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(workers=workers, **changes)


def test_what_works_on_several_workers_needs_no_micro_batch():
    for mean_norms in ("microbatch", "worker", "two_batch", "per_example"):
        plan_of(workers=2, optimizer="clars", mean_norms=mean_norms, noise_scale=True)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A run with all of it: folder and what it has printed."""
    folder = tmp_path_factory.mktemp("grown") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", tiny_network)
        settings = STEP | {"epochs": 4, "lr_milestones": (1.5, 3.0), "lr_factor": 0.5}
        train(
            folder,
            optimizer="lars",
            grow_batch_factor=2.0,
            max_batch_size=40,
            global_batch_size=10,
            micro_batch_size=5,
            noise_scale=True,
            layer_report_every=4,
            eval_every=1,
            **settings,
        )
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_rows_of_a_growing_run_say_batch_rate_updates_and_noise(grown):
    found = rows(grown)
    assert [row["batch_size"] for row in found] == [10, 20, 20, 40]
    assert [row["updates"] for row in found] == [6, 11, 13, 15]
    assert len({row["learning_rate"] for row in found}) == 1
    assert all(row["noise_scale"] is None or row["noise_scale"] > 0 for row in found)
    assert all("noise_scale_error" in row for row in found)


def test_the_batch_is_drawn_and_layers_are_reported(grown):
    layers = [json.loads(line) for line in (grown / "layers.jsonl").read_text().splitlines()]
    assert [line["step"] for line in layers][:3] == [1, 4, 8] or layers[0]["step"] == 1
    assert any("kernel" in path for path in layers[0]["trust_ratio"])
    assert {path.name for path in (grown / "tensorboard").iterdir()} >= {"layers"}
    assert (grown / "curves.png").stat().st_size > 10_000


def test_the_saved_network_knows_nothing_of_micro_batches(grown):
    model = keras.models.load_model(grown / "final.keras")
    assert not hasattr(model, "micro_batch_size")
    assert np.isfinite(model.predict(np.zeros((2, 8, 8, 1)), verbose=0)).all()


def test_micro_batches_change_nothing_in_a_network_without_batch_norm(tmp_path, monkeypatch):
    def plain(image_shape, classes):
        layers = [keras.layers.Flatten(), keras.layers.Dense(classes)]
        return keras.Sequential([keras.Input(image_shape), *layers])

    monkeypatch.setitem(MODELS, "tiny", plain)
    weights = []
    for micro in (None, 6):
        folder = tmp_path / str(micro)
        train(folder, optimizer="lars", learning_rate=1.0, micro_batch_size=micro)
        weights.append(keras.models.load_model(folder / "final.keras").get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
