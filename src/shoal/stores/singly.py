"""One write is a transaction of one write, in every store.

Knows nothing of how a store carries transactions out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from shoal.ports import Delete, Op, Put


class WritesSingly(ABC):
    """The part of `ports.KVStore` that follows from `transact`."""

    @abstractmethod
    async def transact(self, ops: Sequence[Op]) -> int: ...

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: int | None = None
    ) -> int:
        return await self.transact([Put(key, value, expect, lease)])

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        return await self.transact([Delete(key, expect)])
