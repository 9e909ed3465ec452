"""Layer statistics: right against an oracle, collected once, and only when somebody asks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import oracle
from tests.training.models import data, large
from tf_lars.training.statistics import LayerStatistics


def still():
    """An optimizer that leaves the weights where they are."""
    return keras.optimizers.SGD(0.0)


def recorded(model, x, y, batch):
    recorder = oracle.Recorder(len(model.trainable_variables))
    model.fit(x, y, batch_size=batch, shuffle=False, verbose=0, callbacks=[recorder])
    return recorder


def test_statistics_are_those_of_the_parts_of_the_batch():
    x, y = data(96)
    model = large(32, still())
    recorder, parts = recorded(model, x, y, 96), oracle.part_norms(model, x, y, 32)
    whole = oracle.norms(oracle.gradient(model, x, y))
    np.testing.assert_allclose(recorder["squared_norm"], whole**2, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(recorder["mean_norm"], parts.mean(0), rtol=1e-4)
    np.testing.assert_allclose(recorder["mean_squared_norm"], (parts**2).mean(0), rtol=1e-4)
    np.testing.assert_allclose(recorder["mean_worker_norm"], whole, rtol=1e-4)
    assert (recorder["batch"], recorder["parts"], recorder["workers"]) == (96, 3, 1)


def test_a_smaller_last_micro_batch_counts_by_its_rows():
    x, y = data(80)
    model = large(32, still())
    recorder, parts = recorded(model, x, y, 80), oracle.part_norms(model, x, y, 32)
    rows = np.array([32, 32, 16]) / 80
    np.testing.assert_allclose(recorder["mean_norm"], rows @ parts, rtol=1e-4)
    np.testing.assert_allclose(recorder["mean_squared_norm"], rows @ parts**2, rtol=1e-4)


def test_loss_scaling_is_taken_out():
    x, y = data(64)
    scaled = large(16, keras.optimizers.SGD(0.0, loss_scale_factor=1024.0))
    one, other = recorded(large(16, still()), x, y, 64), recorded(scaled, x, y, 64)
    for name in one.values:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4)


def test_nothing_is_computed_when_nobody_asks():
    x, y = data(64)

    def norm_operations(model, callbacks):
        model.fit(x, y, batch_size=64, verbose=0, callbacks=callbacks)
        step = tf.function(model.train_step).get_concrete_function(
            (tf.TensorSpec([None, 12]), tf.TensorSpec([None], tf.int32))
        )
        graph = step.graph.as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        return sum(node.op == "L2Loss" for node in nodes)

    model = large(16, still())
    assert norm_operations(model, []) == 0
    recorder = oracle.Recorder(len(model.trainable_variables))
    assert norm_operations(model, [recorder]) > 0
    assert norm_operations(model, []) == 0


def test_statistics_of_one_micro_batch_on_one_worker_are_refused_before_training():
    x, y = data(64)
    for size in (None, 64):
        model = large(size, still())
        with pytest.raises(ValueError, match=r"Recorder: .* micro_batch_size to at most half"):
            recorded(model, x, y, 64)
        assert int(model.optimizer.iterations) == 0


def statistics(big, small, parts, batch):
    zero = tf.zeros_like(tf.constant(big))
    return LayerStatistics(
        squared_norm=tf.constant(big),
        mean_norm=zero,
        mean_squared_norm=tf.constant(small),
        batch=tf.constant(float(batch)),
        parts=tf.constant(float(parts)),
        mean_worker_norm=zero,
        workers=tf.constant(1.0),
    )


def test_noise_solves_the_two_equations_it_comes_from():
    squared, trace = np.array([2.0, 0.5], "float32"), np.array([30.0, 7.0], "float32")
    given = statistics(squared + trace / 96, squared + trace / 24, parts=4, batch=96)
    np.testing.assert_allclose(given.noise(), [squared, trace], rtol=1e-4)
    np.testing.assert_allclose(given.per_example_norm(), np.sqrt(squared + trace), rtol=1e-4)
    assert bool(given.usable)


def test_one_part_gives_no_noise_and_no_nan():
    given = statistics([4.0], [4.0], parts=1, batch=32)
    np.testing.assert_array_equal(given.noise(), [[0.0], [0.0]])
    np.testing.assert_allclose(given.per_example_norm(), [2.0])
    assert not bool(given.usable)


def test_noise_is_unbiased_for_the_batch_drawn_from_a_population():
    """Exactly: averaged over all the ways to draw, for parts of unequal size too."""
    rng = np.random.default_rng(0)
    mean, deviation = np.array([0.3, -0.2, 0.1]), np.array([1.0, 2.0, 0.5])
    found = []
    for _ in range(4000):
        rows = mean + deviation * rng.normal(size=(20, 3))
        cuts = [rows[:8], rows[8:16], rows[16:]]
        small = sum(len(c) / 20 * np.sum(c.mean(0) ** 2) for c in cuts)
        big = np.sum(rows.mean(0) ** 2)
        b = 20 / 3
        squared = (20 * big - b * small) / (20 - b)
        found.append([squared, (small - big) / (1 / b - 1 / 20)])
    # The same formulas as in the code, on one of the draws.
    given = statistics(np.array([big], "float32"), np.array([small], "float32"), 3, 20)
    np.testing.assert_allclose(np.ravel(given.noise()), found[-1], rtol=1e-3)
    error = np.std(found, 0) / np.sqrt(len(found))
    truth = np.array([np.sum(mean**2), np.sum(deviation**2)])
    assert np.all(np.abs(np.mean(found, 0) - truth) < 4 * error)
