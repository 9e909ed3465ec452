"""When a run has diverged, and what it says then."""

import json
import math
import re

import keras
import pytest

from tests.trainers.small_runs import tiny_network, train
from trainers.divergence import Diverged, Divergence
from trainers.models import MODELS
from trainers.position import Position
from trainers.timetable import Timetable


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", tiny_network)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_a_diverging_run_stops_at_the_update_and_names_rate_and_layers(tmp_path, capsys, optimizer):
    settings = {"learning_rate": 1e36, "precise_bn_examples": 0, "checkpoint_every": "1"}
    summary = train(tmp_path, optimizer=optimizer, lr_schedule="constant", **settings)
    assert summary["diverged"] and 1 < summary["updates"] < 12
    said = capsys.readouterr().out
    assert f"DIVERGED at update {summary['updates']}, learning rate 1e+36: the training" in said
    assert "loss is no longer finite" in said
    layers = re.search(r"Trust ratios after update 1: largest (\S+) .*; smallest (\S+) ", said)
    assert (layers is not None) == (optimizer == "lars")
    if layers:
        assert {"kernel"} == {path.rpartition("/")[2] for path in layers.groups()}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()]


class Watched(Divergence):
    """Fed with losses by hand."""

    def __init__(self, classes=10):
        position = Position(Timetable(1000, 1, [1]))
        super().__init__(classes, lambda step: 0.5, position)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        self.set_model(model)

    def feed(self, *losses, updates=1):
        for loss in losses:
            self.position.update += updates
            self.judge(loss * 4, 4)


def test_a_loss_far_above_its_start_for_a_while_is_a_divergence():
    watched = Watched()
    watched.feed(2.3, 2.0, 2.5)
    with pytest.raises(Diverged, match=r"at update 2\d, .* rate 0\.5: .* above 10 times .* 2\.303"):
        watched.feed(*[35.0] * 100)


def test_neither_a_single_spike_nor_a_high_plateau_is_a_divergence():
    watched = Watched()
    watched.feed(2.3, 400.0, *[2.3] * 50, *[20.0] * 200)


def test_the_start_is_never_below_the_loss_of_guessing():
    watched = Watched(classes=1000)
    watched.feed(0.01, *[20.0] * 200)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_divergence_at_once(bad):
    watched = Watched()
    watched.feed(1.0)
    with pytest.raises(Diverged, match=r"update 2, .*no longer finite"):
        watched.feed(bad)


def test_looking_less_often_counts_the_updates_in_between():
    often, rarely = Watched(), Watched()
    often.feed(2.3, *[30.0] * 20)
    rarely.feed(2.3)
    rarely.feed(30.0, 30.0, updates=10)
    assert often.average == pytest.approx(rarely.average)


def test_the_state_of_a_watch_goes_on():
    watched, other = Watched(), Watched()
    watched.feed(3.0, 8.0)
    other.set_state(json.loads(json.dumps(watched.get_state())))
    assert (other.start, other.average) == (watched.start, watched.average)
