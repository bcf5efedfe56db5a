"""The memory of one accelerator: its budget, what copies take of it, who leaves it first.

A copy lies in at most one pool, beside the host's memory that it takes. Each pool has an eviction
of its own, by the same rule: there a byte of the accelerator is what is scarce.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.copies import CopyState
from shoal.core.eviction import Eviction
from shoal.core.ledger import Books
from shoal.domain.accelerators import PoolBudget, PoolFigures, kind_of


class Pool(Books):
    """besides_bytes: what its frameworks hold there beyond the copies: workspaces, calls in
    progress. The budget has to do for both."""

    def __init__(self, pool: PoolBudget, eviction: Eviction) -> None:
        super().__init__()
        self.name = pool.name
        self.kind = kind_of(pool.name)
        self.budget_bytes = pool.budget_bytes
        self.eviction = eviction
        self.besides_bytes = 0

    @property
    def capacity_bytes(self) -> int:
        return max(self.budget_bytes - self.besides_bytes, 0)

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.booked_bytes

    @property
    def coming_bytes(self) -> int:
        """Free, or free once what leaves has left."""
        return self.free_bytes + self.bytes[CopyState.UNLOADING]

    @property
    def obtainable_bytes(self) -> int:
        """Free, leaving, and what might leave."""
        return self.coming_bytes + self.bytes[CopyState.READY] - self.protected_bytes

    def room_to_fill_bytes(self, share: float) -> int:
        return round(share * self.capacity_bytes) - self.booked_bytes

    def measured(self, held_bytes: int) -> None:
        """Follow what frameworks say that they hold there; while something is loaded nobody can
        tell whose it is."""
        if not self.bytes[CopyState.LOADING]:
            self.besides_bytes = max(held_bytes - self.booked_bytes, 0)

    def figures(self, fill_share: float) -> PoolFigures:
        return PoolFigures(
            self.name, max(self.free_bytes, 0), max(self.room_to_fill_bytes(fill_share), 0),
            self.bytes[CopyState.READY] + self.bytes[CopyState.UNLOADING])


def with_most_room(pools: Sequence[Pool], need_bytes: int) -> Pool:
    """Of those that can have so much room, the one with the most that is free or soon will be: the
    first of equals. Where none can now, of those that could; else the largest."""
    for able in (
        [pool for pool in pools if pool.obtainable_bytes >= need_bytes],
        [pool for pool in pools if pool.budget_bytes >= need_bytes],
    ):
        if able:
            return max(able, key=lambda pool: pool.coming_bytes)
    return max(pools, key=lambda pool: pool.budget_bytes)
