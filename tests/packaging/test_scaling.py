"""How measured exchanges become the numbers of docs/scaling.md."""

import pytest

from benchmarks import scaling


def test_the_cost_of_a_measured_exchange_is_fitted():
    fitted = scaling.fit_cost({size: 1e-3 + size / 2e9 for size in (4, 2**20, 2**26)})
    assert fitted == pytest.approx((1e-3, 2e9))
