"""Tests of this folder run on the loop that Shoal uses and on asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.peer_node import QUICK, Make, Node

from shoal.dataplane.peer import LinkOptions


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def node() -> AsyncIterator[Make]:
    made: list[Node] = []
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))

    def make(instance: str, options: LinkOptions = QUICK, **more: Any) -> Node:
        made.append(Node(instance, options, **more))
        return made[-1]

    yield make
    for each in made:
        await each.close()
    assert complaints == []


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/b.sock"
