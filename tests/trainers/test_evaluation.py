"""Evaluation counts every test image once, however many workers share the work."""

import functools

import keras
import numpy as np
import pytest

from tests import workers as jobs
from tests.trainers.small_runs import stripes
from trainers.data.arrays import ArrayDataSet
from trainers.evaluation import Evaluator
from trainers.startup import Workers

job = jobs.Job(2, 3)


@functools.cache
def model():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]
    return keras.Sequential(layers)


def expected():
    """Mean loss and accuracy over the 25 test images, in float64 without TensorFlow."""
    images, labels = stripes().test
    kernel, bias = model().get_weights()
    logits = images.reshape(25, -1).astype("float64") @ kernel + bias
    log_sums = np.log(np.exp(logits).sum(-1))
    losses = log_sums - logits[np.arange(25), labels]
    return {"loss": losses.mean(), "top1": np.mean(logits.argmax(-1) == labels)}


def assert_expected(actual):
    assert actual["loss"] == pytest.approx(expected()["loss"], rel=1e-5)
    assert actual["top1"] == pytest.approx(expected()["top1"], rel=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 25, 100])
def test_one_worker_evaluates_all_images(batch):
    assert_expected(Evaluator(model(), stripes(), batch, Workers())())


class Alone(Workers):
    """One of several workers, whose sums are collected by hand."""

    def sum(self, vector):
        self.totals.append(vector)
        return vector


@pytest.mark.parametrize("size", [2, 3, 4, 26])
def test_the_shares_of_all_workers_add_up(size):
    totals = []
    for rank in range(size):
        worker = Alone(rank, size)
        object.__setattr__(worker, "totals", totals)
        with np.errstate(invalid="ignore", divide="ignore"):
            Evaluator(model(), stripes(), 4, worker)()
    loss, correct, _, count = np.sum(totals, 0)
    assert count == 25
    assert_expected({"loss": loss / count, "top1": correct / count})


def seven_classes():
    """As `stripes`, with more than five classes, in batches that leave a part of one over."""
    images, labels = stripes().test
    return ArrayDataSet("seven", 7, (images, labels), (images, np.arange(25) % 7))


def test_top5_counts_the_labels_among_the_five_best():
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(7)]
    )
    images, labels = seven_classes().test
    best = np.argsort(-network.predict(images, verbose=0), 1)[:, :5]
    expected = np.mean((best == labels[:, None]).any(1))
    result = Evaluator(network, seven_classes(), 4, Workers())()
    assert 0 < result["top1"] < expected < 1  # or else the check would show nothing
    assert result["top5"] == pytest.approx(expected)


def test_with_five_classes_or_fewer_there_is_no_top5():
    assert set(Evaluator(model(), stripes(), 4, Workers())()) == {"loss", "top1"}


@job.check
def test_workers_of_a_job_all_get_the_exact_result():
    import tf_lars.horovod as hvd

    workers = Workers(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), hvd)
    assert_expected(Evaluator(model(), stripes(), 4, workers)())


@job.check
def test_workers_share_sums_and_objects():
    import tf_lars.horovod as hvd

    workers = Workers(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), hvd)
    total = workers.sum(np.array([1.0, hvd.rank()]))
    assert total.tolist() == [hvd.size(), sum(range(hvd.size()))]
    assert workers.broadcast({"rank": hvd.rank()}) == {"rank": 0}
