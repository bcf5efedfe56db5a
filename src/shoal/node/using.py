"""Counts the models that use something else in the registry, and names the first of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shoal.domain.model import ModelRecord
from shoal.node.replica import Replica

FIRST: Final = 10  # that are named


async def who_uses(
    replica: Replica, text: str, uses: Callable[[ModelRecord], bool]
) -> tuple[int, list[str]]:
    """How many do, and the names of the first. text: that stands in every record of which `uses`
    may be true."""
    count = 0
    first: list[str] = []
    async for record in replica.with_text(text):
        if uses(record):
            count += 1
            if count <= FIRST:
                first.append(record.name)
    return count, first
