"""What several of the trainers' tests share."""

import pytest

from tests.trainers.small_runs import tiny_network
from trainers.models import MODELS


@pytest.fixture(scope="module")
def tiny_model():
    """`--model=tiny` for the tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", tiny_network)
        yield
