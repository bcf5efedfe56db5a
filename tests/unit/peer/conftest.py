"""Two sides of a link that know each other."""

from __future__ import annotations

import pytest
from tests.peer_pair import (
    SMALL,
    Pair,
)


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.pump()
    return pair


@pytest.fixture
def small() -> Pair:
    pair = Pair(SMALL)
    pair.pump()
    return pair
