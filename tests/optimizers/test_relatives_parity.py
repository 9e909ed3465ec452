"""LANS, NovoGrad, OrScale and LARC against their formulas in float64, and against optax."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.optimizers.precision import BACKEND, DTYPE, assert_relative
from tests.optimizers.reference_relatives import (
    ReferenceLANS,
    ReferenceLARC,
    ReferenceNovoGrad,
    ReferenceOrScale,
)
from tf_lars import LANS, LARC, LARS, NovoGrad, OrScale
from tf_lars.optimizers.orscale import NEWTON_SCHULZ, orthogonalised

SHAPES = ((3, 3, 2, 5), (5,), (1, 1, 5, 4), (4, 6), (6, 3), (3,))
QUICK = settings(max_examples=8, deadline=None, derandomize=True)


def random_run(seed, steps=6, shapes=SHAPES, scale=1.0):
    """(start values, gradients of each step, rates), as float32 values."""
    generator = np.random.default_rng(seed)
    starts = [np.float32(generator.normal(size=shape)) for shape in shapes]
    gradients = [
        [np.float32(scale * generator.normal(size=shape)) for shape in shapes] for _ in range(steps)
    ]
    return (
        starts,
        gradients,
        [float(rate) for rate in np.float32(generator.uniform(0.01, 0.2, steps))],
    )


def ours_after(optimizer, run):
    starts, gradients, rates = run
    variables = [keras.Variable(start, dtype=DTYPE) for start in starts]
    for step_gradients, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply(
            [keras.ops.convert_to_tensor(g, dtype=DTYPE) for g in step_gradients], variables
        )
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def reference_after(make, run):
    starts, gradients, rates = run
    references = [make(k, start) for k, start in enumerate(starts)]
    for step_gradients, rate in zip(gradients, rates, strict=True):
        for reference, gradient in zip(references, step_gradients, strict=True):
            reference.step(np.float64(gradient), rate)
    return [reference.w for reference in references]


def assert_close(actual, expected, in_float32=2e-6, in_float64=1e-9):
    assert_relative(actual, expected, in_float32, in_float64)


def decay_and_adapt_kernels(start):
    return {"decays": start.ndim > 1, "adapts": start.ndim > 1}


seeds = st.integers(0, 2**20)
decays = st.sampled_from([0.0, 1e-4, 0.05])
scales = st.sampled_from([1e-4, 1.0, 300.0])


@QUICK
@given(
    seed=seeds, scale=scales, weight_decay=decays, beta_1=st.floats(0, 0.95),
    beta_2=st.floats(0.5, 0.999), bounds=st.sampled_from([(None, None), (0.5, 3.0), (None, 1.0)]),
)  # fmt: skip
def test_lans_follows_its_formula(seed, scale, weight_decay, beta_1, beta_2, bounds):
    run = random_run(seed, scale=scale)
    options = {
        "beta_1": beta_1, "beta_2": beta_2, "epsilon": 1e-6, "weight_decay": weight_decay,
        "min_weight_norm": bounds[0], "max_weight_norm": bounds[1],
    }  # fmt: skip
    expected = reference_after(
        lambda _, w: ReferenceLANS(w, **decay_and_adapt_kernels(w), **options), run
    )
    assert_close(ours_after(LANS(0.0, jit_compile=False, **options), run), expected)


@QUICK
@given(
    seed=seeds, scale=scales, weight_decay=decays, beta_1=st.floats(0, 0.97),
    beta_2=st.floats(0, 0.99), grad_averaging=st.booleans(), adapts_all=st.booleans(),
)  # fmt: skip
def test_novograd_follows_its_formula(
    seed, scale, weight_decay, beta_1, beta_2, grad_averaging, adapts_all
):
    run = random_run(seed, scale=scale)
    options = {
        "beta_1": beta_1, "beta_2": beta_2, "epsilon": 1e-8, "weight_decay": weight_decay,
        "grad_averaging": grad_averaging,
    }  # fmt: skip
    expected = reference_after(
        lambda _, w: ReferenceNovoGrad(
            w, decays=w.ndim > 1, adapts=adapts_all or w.ndim > 1, **options
        ),
        run,
    )
    excluded = None if adapts_all else "1d"
    ours = NovoGrad(0.0, exclude_from_layer_adaptation=excluded, jit_compile=False, **options)
    assert_close(ours_after(ours, run), expected)


@pytest.mark.parametrize(("b1", "b2", "decay"), [(0.9, 0.25, 0.0), (0.95, 0.98, 0.01)])
def test_novograd_agrees_with_optax(b1, b2, decay):
    starts, gradients, rates = run = random_run(3, steps=20)
    rate = rates[0]
    transform = optax.novograd(rate, b1=b1, b2=b2, eps=1e-6, weight_decay=decay)
    with jax.enable_x64(True):
        parameters = [jnp.asarray(start, "float64") for start in starts]
        state = transform.init(parameters)
        for step_gradients in gradients:
            each = [jnp.asarray(g, "float64") for g in step_gradients]
            updates, state = transform.update(each, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
    ours = NovoGrad(
        0.0, beta_1=b1, beta_2=b2, epsilon=1e-6, weight_decay=decay, exclude_from_weight_decay=None
    )
    actual = ours_after(ours, (starts, gradients, [rate] * len(run[1])))
    assert_close(actual, [np.float64(p) for p in parameters])


@QUICK
@given(
    seed=seeds, scale=scales, weight_decay=decays, momentum=st.floats(0, 0.95),
    newton_schulz=st.sampled_from(sorted(NEWTON_SCHULZ)), stem_and_head=st.booleans(),
    bounds=st.sampled_from([(0.5, 1.5), (0.0, 100.0)]),
)  # fmt: skip
def test_orscale_follows_its_formula_in_pytorchs_layout(
    seed, scale, weight_decay, momentum, newton_schulz, stem_and_head, bounds
):
    run = random_run(seed, scale=scale)
    coefficients, safety = NEWTON_SCHULZ[newton_schulz]
    options = {
        "momentum": momentum, "weight_decay": weight_decay, "epsilon": 1e-6,
        "min_trust_ratio": bounds[0], "max_trust_ratio": bounds[1],
        "adamw_learning_rate_ratio": 0.5,
    }  # fmt: skip
    ends = (0, 4) if stem_and_head else ()
    expected = reference_after(
        lambda k, w: ReferenceOrScale(
            w, decays=w.ndim > 1, adapts=True, on_adamw=w.ndim < 2 or k in ends,
            coefficients=coefficients, safety=safety, **options,
        ),
        run,
    )  # fmt: skip
    ours = OrScale(
        0.0, newton_schulz=newton_schulz, adamw_stem_and_head=stem_and_head, jit_compile=False,
        **options,
    )  # fmt: skip
    # Five quintics with coefficients up to 22 multiply the rounding of float32.
    in_float64 = 3e-5 if BACKEND == "torch" else 1e-9
    assert_close(ours_after(ours, run), expected, 3e-5, in_float64)


@pytest.mark.parametrize("newton_schulz", sorted(NEWTON_SCHULZ))
@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_newton_schulz_comes_near_the_polar_factor(newton_schulz, shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    q = keras.ops.convert_to_numpy(
        orthogonalised(keras.ops.convert_to_tensor(np.float32(matrix)), newton_schulz)
    )
    singular = np.linalg.svd(q, compute_uv=False)
    # The coefficients trade exactness for few iterations: 1 ± 0.3 is what Muon is known for.
    assert np.all((singular > 0.6) & (singular < 1.35))
    assert np.sum(q * (u @ vt)) / (np.linalg.norm(q) * np.linalg.norm(u @ vt)) > 0.98


def test_orscale_gives_adamw_what_is_no_matrix():
    shapes = ((3, 3, 3, 8), (8,), (3, 3, 8, 1), (8, 8), (9, 8), (8, 2), (2,))
    variables = [keras.Variable(np.ones(shape, "float32")) for shape in shapes]
    listed = OrScale(exclude_from_orthogonalization=[variables[4]])
    listed.build(variables)
    on_adamw = ["velocity" in layer.slots for layer in listed._plan.layers]
    #          stem  1-D   one column  matrix listed head  1-D
    assert on_adamw == [True, True, True, False, True, True, True]
    restored = OrScale.from_config(listed.get_config())
    restored.build(variables)
    assert ["velocity" in layer.slots for layer in restored._plan.layers] == on_adamw


INNERS = {
    "sgd": (lambda: keras.optimizers.SGD(0.1, momentum=0.9), ReferenceLARC.sgd),
    "adam": (lambda: keras.optimizers.Adam(0.1), ReferenceLARC.adam_step),
}


@QUICK
@given(
    seed=seeds, scale=scales, weight_decay=decays, trust_clip=st.booleans(),
    eta=st.sampled_from([0.001, 0.02, 1.0]), inner=st.sampled_from(sorted(INNERS)),
)  # fmt: skip
def test_larc_hands_the_scaled_gradient_to_the_inner_rule(
    seed, scale, weight_decay, trust_clip, eta, inner
):
    run = random_run(seed, scale=scale)
    make_inner, reference_inner = INNERS[inner]
    options = {
        "trust_coefficient": eta, "trust_clip": trust_clip, "epsilon": 1e-8,
        "weight_decay": weight_decay,
    }  # fmt: skip
    expected = reference_after(
        lambda _, w: ReferenceLARC(
            w, **decay_and_adapt_kernels(w), inner=reference_inner, **options
        ),
        run,
    )
    # Keras's own optimizers round rates and 1 − βᵗ to float32, whatever the variable's type.
    rounding = 1e-5 if inner == "adam" else 1e-7
    assert_close(ours_after(LARC(make_inner(), **options), run), expected, 1e-5, rounding)


def test_larc_around_sgd_is_the_larc_preset_of_lars():
    run = random_run(5)
    wrapped = LARC(
        keras.optimizers.SGD(0.1, momentum=0.9),
        weight_decay=0.01,
        exclude_from_weight_decay=None,
        exclude_from_layer_adaptation=None,
    )
    preset = LARS.from_preset("larc", learning_rate=0.1, weight_decay=0.01)
    # SGD's velocity holds the rate, the preset's does not: they agree while it is constant.
    run = (*run[:2], [0.1] * len(run[1]))
    assert_close(ours_after(wrapped, run), ours_after(preset, run), in_float64=1e-7)
