"""Schedules against their formulas in Python's own floats, on the backend that is set."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_lars.schedules import WarmupConstant, WarmupCosine, WarmupPolynomial, WarmupStep

rates = st.floats(1e-4, 64.0)
totals = st.integers(1, 5000)
fractions = st.floats(0.0, 1.0)
fast = settings(max_examples=60, deadline=None)


def warming(step, warmup, start, peak):
    return start + (peak - start) * step / warmup


def assert_rate(schedule, step, expected):
    rate = float(schedule(step))
    assert rate == pytest.approx(expected, rel=1e-4, abs=1e-4 * schedule.learning_rate)


@fast
@given(rates, totals, fractions, fractions, st.floats(0.5, 3.0), st.floats(0, 1.2), st.booleans())
def test_polynomial_follows_its_formula(peak, total, warm, low, power, at, from_start):
    warmup, start, end = round(warm * total), low * peak, low * peak / 2
    schedule = WarmupPolynomial(
        peak, total, warmup, start, end, power, "start" if from_start else "warmup"
    )
    step = round(at * total)
    begin = 0 if from_start else warmup
    if step < warmup:
        expected = warming(step, warmup, start, peak)
    else:
        progress = min((step - begin) / max(total - begin, 1), 1.0)
        expected = end + (peak - end) * (1 - progress) ** power
    assert_rate(schedule, step, expected)


@fast
@given(rates, totals, fractions, fractions, st.floats(0, 1.2))
def test_cosine_follows_its_formula(peak, total, warm, low, at):
    warmup, start, end = round(warm * total), low * peak, low * peak / 2
    step = round(at * total)
    if step < warmup:
        expected = warming(step, warmup, start, peak)
    else:
        progress = min((step - warmup) / max(total - warmup, 1), 1.0)
        expected = end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2
    assert_rate(WarmupCosine(peak, total, warmup, start, end), step, expected)


@fast
@given(
    rates,
    st.lists(st.integers(10, 1000), unique=True, max_size=5),
    st.floats(0.1, 1.0),
    st.integers(0, 10),
    st.integers(0, 1200),
)
def test_step_falls_at_every_boundary(peak, boundaries, factor, warmup, step):
    boundaries = sorted(boundaries)
    schedule = WarmupStep(peak, boundaries, factor, warmup, start_learning_rate=peak / 3)
    if step < warmup:
        expected = warming(step, warmup, peak / 3, peak)
    else:
        expected = peak * factor ** sum(step >= boundary for boundary in boundaries)
    assert_rate(schedule, step, expected)


@fast
@given(rates, st.integers(0, 50), st.integers(0, 100))
def test_constant_stays_at_its_peak(peak, warmup, step):
    expected = warming(step, warmup, 0.0, peak) if step < warmup else peak
    assert_rate(WarmupConstant(peak, warmup), step, expected)


ALL = [
    WarmupPolynomial(2.0, 100, 10, 0.1, 0.01, power=3.0, decay_from="start"),
    WarmupCosine(2.0, 100, 10, 0.1, 0.01),
    WarmupStep(2.0, [30, 60], 0.5, 10, 0.1),
    WarmupConstant(2.0, 10, 0.1),
]
by_name = pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)


@by_name
def test_starts_at_the_start_and_reaches_the_peak_after_the_warmup(schedule):
    assert float(schedule(0)) == pytest.approx(0.1)
    assert float(schedule(5)) == pytest.approx(1.05)
    if getattr(schedule, "decay_from", None) != "start":
        assert float(schedule(10)) == pytest.approx(2.0)


@by_name
def test_stays_at_its_last_value_after_the_end(schedule):
    assert float(schedule(100)) == float(schedule(10**6))


@by_name
def test_has_no_warmup_when_asked_for_none(schedule):
    config = schedule.get_config() | {"warmup_steps": 0}
    assert float(type(schedule).from_config(config)(0)) == pytest.approx(2.0)


@by_name
def test_survives_serialisation(schedule):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(copy) is type(schedule)
    assert copy.get_config() == schedule.get_config()
    assert [float(copy(s)) for s in range(0, 120, 7)] == [
        float(schedule(s)) for s in range(0, 120, 7)
    ]


@by_name
@pytest.mark.parametrize("kind", [np.int64, np.float32, keras.ops.convert_to_tensor, int])
def test_takes_steps_of_any_kind(schedule, kind):
    assert float(schedule(kind(20))) == float(schedule(20))


@by_name
def test_drives_an_optimizer(schedule):
    optimizer = keras.optimizers.SGD(schedule)
    weight = keras.Variable(np.zeros(1, "float32"))
    optimizer.build([weight])
    for _ in range(3):
        optimizer.apply([keras.ops.ones(1)])
    taken = -float(keras.ops.convert_to_numpy(weight.value)[0])
    assert taken == pytest.approx(sum(float(schedule(step)) for step in range(3)), rel=1e-5)


def test_the_paper_s_polynomial_goes_on_below_its_peak_after_the_warmup():
    schedule = WarmupPolynomial(2.0, 100, 10, decay_from="start")
    assert float(schedule(10)) == pytest.approx(2.0 * 0.9**2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WarmupPolynomial(-1.0, 10), "learning_rate must not be negative; got -1.0"),
        (lambda: WarmupPolynomial(math.nan, 10), "learning_rate must not be negative; got nan"),
        (lambda: WarmupPolynomial(1.0, 0), "total_steps must be at least 1; got 0"),
        (lambda: WarmupCosine(1.0, 10, 11), r"warmup_steps must be at most total_steps \(10\)"),
        (lambda: WarmupCosine(1.0, 10, -1), "warmup_steps must not be negative; got -1"),
        (lambda: WarmupPolynomial(1.0, 10, power=0), "power must be positive; got 0"),
        (lambda: WarmupCosine(1.0, 10, decay_from="end"), "decay_from must be 'warmup' or 'start'"),
        (lambda: WarmupStep(1.0, [20, 10]), "boundaries must be positive and rising"),
        (lambda: WarmupStep(1.0, [0, 10]), "boundaries must be positive and rising"),
        (lambda: WarmupStep(1.0, [10], warmup_steps=11), "warmup_steps must be at most the first"),
        (lambda: WarmupStep(1.0, [10], factor=-0.1), "factor must not be negative; got -0.1"),
        (lambda: WarmupConstant(1.0, 1, -0.1), "start_learning_rate must not be negative"),
    ],
)
def test_refuses_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
