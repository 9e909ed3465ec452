"""Scaling of the learning rate with the batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_lars.schedules import legw, scale_learning_rate

sizes = st.integers(1, 10**6)
rates = st.floats(1e-6, 1e3)


def test_the_published_rate_of_goyal_et_al():
    assert scale_learning_rate(0.1, 8192) == pytest.approx(3.2)


@given(rates, sizes, sizes)
def test_each_rule_follows_its_formula(base, batch, base_batch):
    growth = batch / base_batch
    for rule, expected in (("linear", growth), ("sqrt", growth**0.5), ("none", 1.0)):
        scaled = scale_learning_rate(base, batch, base_batch, rule)
        assert scaled == pytest.approx(base * expected)


@given(rates, sizes, sizes, sizes)
def test_scaling_in_two_steps_is_scaling_in_one(base, first, second, third):
    for rule in ("linear", "sqrt"):
        halfway = scale_learning_rate(base, second, first, rule)
        there = scale_learning_rate(halfway, third, second, rule)
        assert there == pytest.approx(scale_learning_rate(base, third, first, rule))


@given(rates, st.floats(0, 10), sizes, st.integers(1, 64))
def test_legw_keeps_the_number_of_warmup_updates(rate, epochs, base_batch, growth):
    scaled, warmup = legw(rate, epochs, base_batch * growth, base_batch)
    assert scaled == pytest.approx(rate * growth**0.5)
    assert warmup / (base_batch * growth) == pytest.approx(epochs / base_batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scale_learning_rate(0.1, 8, rule="cubic"), "rule must be one of linear, sqrt"),
        (lambda: scale_learning_rate(0.0, 8), "base must be positive; got 0.0"),
        (lambda: scale_learning_rate(0.1, -8), "batch must be positive; got -8"),
        (lambda: scale_learning_rate(0.1, 8, 0), "base_batch must be positive; got 0"),
        (lambda: legw(0.1, -1, 8, 8), "warmup_epochs must not be negative; got -1"),
    ],
)
def test_refuses_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
