"""CLARS in the training step: each source of mean norms against an oracle."""

import keras
import numpy as np
import pytest

from tests.training import oracle
from tests.training.models import compile_, data, large, tensors, weights
from tf_lars.optimizers import CLARS, LARS
from tf_lars.training.ghost_batch_norm import GhostBatchNormalization
from tf_lars.training.large_batch_model import LargeBatchModel
from tf_lars.training.mean_norms import PerExampleNorms

EVERYTHING = {"exclude_from_weight_decay": None, "exclude_from_layer_adaptation": None}


def clars(**arguments):
    return CLARS(**{"learning_rate": 1.0, "max_trust_ratio": None, **EVERYTHING, **arguments})


def step(model, x, y):
    """One step; the trust ratios in the order of the variables, and the norms before it."""
    before = oracle.norms(oracle.trainable(model))
    model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    ratios = optimizer.trust_ratios
    return np.array([float(ratios[v.path]) for v in model.trainable_variables]), before


def reference(x, y, size, norm=None):
    """The same initial model, for the oracle."""
    model = compile_(LargeBatchModel(*tensors(norm), micro_batch_size=size))
    return model, oracle.part_norms(model, x, y, size)


@pytest.mark.parametrize("size", [1, 8, 32])
def test_microbatch_gives_the_mean_norm_of_the_micro_batches(size):
    x, y = data(64)
    ratios, norms = step(large(size, clars()), x, y)
    _, parts = reference(x, y, size)
    expected = 0.01 * norms / (parts.mean(0) + 1e-6)
    expected[norms == 0] = 1.0
    np.testing.assert_allclose(ratios, expected, rtol=1e-4)


def test_two_batch_gives_the_root_mean_square_whatever_the_size():
    """Over random orders of the same rows the mean is exactly the per-example one, for any size."""
    x, y = data(64)
    model, examples = reference(x, y, 1)
    whole = oracle.norms(oracle.gradient(model, x, y))
    rows = [oracle.gradient(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    rows = np.array([np.concatenate([g.ravel() for g in row]) for row in rows])
    rng = np.random.default_rng(0)
    big = (whole**2).sum()
    for size in (4, 16):
        drawn = []
        for _ in range(200):
            parts = rng.permutation(rows).reshape(64 // size, size, -1).mean(1)
            trace = ((parts**2).sum(-1).mean() - big) / (1 / size - 1 / 64)
            drawn.append(big - trace / 64 + trace)
        assert np.mean(drawn) == pytest.approx((examples**2).mean(0).sum(), rel=0.02)
    ratios, norms = step(large(8, clars(), mean_norms="two_batch"), x, y)
    parts = oracle.part_norms(model, x, y, 8)
    small, big = (parts**2).mean(0), whole**2
    trace = (small - big) / (1 / 8 - 1 / 64)
    expected = 0.01 * norms / (np.sqrt(big - trace / 64 + trace) + 1e-6)
    expected[norms == 0] = 1.0
    np.testing.assert_allclose(ratios, expected, rtol=1e-3)


def test_per_example_is_the_oracle_on_the_probe():
    x, y = data(64)
    source = PerExampleNorms(examples=16, every=5)
    ratios, norms = step(large(None, clars(), mean_norms=source), x, y)
    _, parts = reference(x[:16], y[:16], 1)
    expected = 0.01 * norms / (parts.mean(0) + 1e-6)
    expected[norms == 0] = 1.0
    np.testing.assert_allclose(ratios, expected, rtol=1e-4)


def test_per_example_on_all_rows_is_the_papers_rule_and_micro_batches_of_one():
    x, y = data(32)
    exact, _ = step(large(None, clars(), mean_norms=PerExampleNorms(32, 1)), x, y)
    micro, _ = step(large(1, clars()), x, y)
    np.testing.assert_allclose(exact, micro, rtol=1e-4)


def test_per_example_heeds_sample_weights():
    x, y = data(16)
    sample_weight = np.linspace(0, 3, 16, dtype="float32")
    models = large(None, clars(), mean_norms=PerExampleNorms(16, 1)), large(1, clars())
    for model in models:
        model.fit(x, y, sample_weight=sample_weight, batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        *(np.concatenate(list(map(np.ravel, weights(m)))) for m in models), rtol=1e-4, atol=1e-6
    )


def test_the_probe_runs_every_k_updates_and_leaves_no_trace():
    """With a rate of zero nothing but the probe could tell two runs apart."""
    x, y = data(64)

    def network():
        inputs, outputs = tensors(keras.layers.BatchNormalization)
        return inputs, keras.layers.Dropout(0.5, seed=1)(outputs)

    probed = PerExampleNorms(examples=8, every=2)
    models = [
        compile_(LargeBatchModel(*network(), mean_norms=source), clars(learning_rate=0.0))
        for source in (probed, PerExampleNorms(examples=1, every=1000))
    ]
    logs = [
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0, epochs=2).history
        for model in models
    ]
    assert logs[0] == logs[1]
    for a, b in zip(*(m.non_trainable_variables for m in models), strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b), err_msg=a.path)


def test_batch_norm_keeps_the_gradients_of_the_rows_adding_up():
    """The probe is normalised as one batch, so no row's gradient explodes by itself."""
    x, y = data(16)
    norm = lambda: GhostBatchNormalization(16)  # noqa: E731
    source = PerExampleNorms(examples=16, every=1)
    ratios, norms = step(large(None, clars(), norm=norm, mean_norms=source), x, y)
    model, _ = reference(x, y, 16, norm)
    whole = oracle.norms(oracle.gradient(model, x, y))
    adapts = norms > 0
    mean_norms = 0.01 * norms[adapts] / ratios[adapts]
    assert np.all(mean_norms >= whole[adapts] * (1 - 1e-4))


@pytest.mark.parametrize("source", ["microbatch", "two_batch", PerExampleNorms(64, 1)])
def test_the_ratio_is_that_of_lars_times_norm_of_mean_over_mean_of_norms(source):
    """λ_CLARS = λ_LARS·‖ḡ‖ / mean‖g_i‖ ≤ λ_LARS, with ε = 0 and no decay."""
    x, y = data(64)
    complete, _ = step(large(8, clars(epsilon=0.0), mean_norms=source), x, y)
    same_rule = LARS(
        1.0,
        trust_coefficient=0.01,
        momentum_rule="unscaled",
        denominator="joint",
        **EVERYTHING,
    )
    plain, norms = step(large(8, same_rule), x, y)
    assert np.all(complete <= plain * (1 + 1e-5))
    if source == "microbatch":
        model, parts = reference(x, y, 8)
        whole = oracle.norms(oracle.gradient(model, x, y))
        expected = np.where(norms == 0, 1.0, plain * whole / parts.mean(0))
        np.testing.assert_allclose(complete, expected, rtol=1e-4)


@pytest.mark.parametrize("rule", ["unscaled", "scaled"])
def test_the_rule_step_by_step(rule):
    """d = g + βw, λ = min(0.1, η‖w‖/(mean‖g_i‖ + ε)), decay everywhere.

    The authors' momentum: v = μv + d, w −= γλv; LARS's: v = μv + γλd, w −= v.
    """
    x, y = data(64)
    options = {"momentum": 0.9, "weight_decay": 1e-2, "exclude_from_weight_decay": None}
    model = large(1, CLARS(0.5, momentum_rule=rule, **options))
    check = compile_(LargeBatchModel(*tensors()))
    w = [np.array(v) for v in model.trainable_variables]
    v = [np.zeros_like(a) for a in w]
    for _ in range(5):
        check.set_weights(w)
        mean_norm = oracle.part_norms(check, x, y, 1).mean(0)
        for k, g in enumerate(oracle.gradient(check, x, y)):
            norm = np.linalg.norm(w[k])
            adapts = w[k].ndim > 1 and norm > 0
            local = 0.5 * (min(0.1, 0.01 * norm / (mean_norm[k] + 1e-6)) if adapts else 1)
            added, taken = (1, local) if rule == "unscaled" else (local, 1)
            v[k] = 0.9 * v[k] + added * (g + 1e-2 * w[k])
            w[k] = w[k] - taken * v[k]
        model.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    for ours, theirs in zip(model.trainable_variables, w, strict=True):
        np.testing.assert_allclose(np.array(ours), theirs, rtol=1e-3, atol=1e-5)


def test_loss_scaling_changes_nothing():
    x, y = data(64)
    plain, _ = step(large(8, clars()), x, y)
    scaled, _ = step(large(8, clars(loss_scale_factor=128.0)), x, y)
    dynamic, _ = step(large(8, keras.optimizers.LossScaleOptimizer(clars(), 1024.0)), x, y)
    np.testing.assert_allclose(scaled, plain, rtol=1e-4)
    np.testing.assert_allclose(dynamic, plain, rtol=1e-4)


def test_bad_sources_are_refused():
    with pytest.raises(ValueError, match="mean_norms='batch' must be one of 'microbatch'"):
        large(8, mean_norms="batch")
    for bad in ({"examples": 0}, {"every": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PerExampleNorms(**bad)
    x, y = data(64)
    with pytest.raises(ValueError, match="needs several workers and there is one"):
        large(8, clars(), mean_norms="worker").fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="mean_norms='microbatch': this needs gradients of parts"):
        large(None, clars()).fit(x, y, verbose=0)
