"""A replica, and the registry behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.plugged_store import Seen, Store

from shoal.node.replica import Replica


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def replica(store: Store, seen: Seen) -> AsyncIterator[Replica]:
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    yield replica
    store.gone = False
    await replica.stop()
