"""A replica, and the registry behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.plugged_store import Seen, Store

from shoal.node import replica as module
from shoal.node.replica import Replica


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", (0.001, 0.002))


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
