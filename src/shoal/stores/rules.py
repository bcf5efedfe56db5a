"""What every store refuses, and in which words, so that the adapters answer alike.

Knows nothing of how entries are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shoal.domain.errors import Conflict, StoreUnavailable
from shoal.ports import Compacted, LeaseLost, Op

HISTORY_LIMIT: Final = 50_000
"""Changes that watches can look back on. A watch reads at once what happens; it falls behind only
while its process stands still, and 50,000 changes are some seconds of declaring in bulk. They take
some 10 MiB of disk."""


def encode_key(key: str) -> bytes:
    """The key as UTF-8, whose byte order is the order of keys.

    Raises ValueError for an empty key and for one that is not text (lone surrogates): both are
    faults of the calling code, never of a user.
    """
    if not key:
        raise ValueError("a registry key must not be empty")
    return key.encode()


def check_ops(ops: Sequence[Op]) -> None:
    """Raises ValueError when a key is wrong or occurs twice: which of two writes to one key should
    win is nothing a store can know, and etcd refuses it too."""
    seen: set[str] = set()
    for op in ops:
        encode_key(op.key)
        if op.key in seen:
            raise ValueError(f"registry key {op.key!r} occurs twice in one transaction")
        seen.add(op.key)


def check_ttl(ttl_s: float) -> None:
    """Raises ValueError unless positive."""
    if not ttl_s > 0:
        raise ValueError(f"a lease must last longer than 0 seconds, not {ttl_s}")


def check_expected(key: str, expect: int | None, actual: int) -> None:
    """`actual`: the revision the key is at, 0 when it does not exist. Raises Conflict."""
    if expect is None or expect == actual:
        return
    if actual == 0:
        state = "does not exist any more"
    elif expect == 0:
        state = "exists already"
    else:
        state = f"was changed meanwhile (revision {actual}, expected {expect})"
    raise Conflict(f"{key!r} {state}; read it again and decide anew")


def check_history(from_revision: int, compacted: int, current: int) -> None:
    """May a watch begin after `from_revision`? `compacted`: the newest revision no longer in the
    history. Raises Compacted.

    A start ahead of the store means that the store was replaced by a younger one: waiting for its
    revision to come by would lose changes, listing again does not.
    """
    if from_revision < compacted or from_revision > current:
        raise Compacted(min(compacted, current) + 1)


def lease_lost(lease: int) -> LeaseLost:
    return LeaseLost(f"lease {lease} has ended; its keys are gone, grant another")


def closed(what: str) -> StoreUnavailable:
    """`what`: the store, in words."""
    return StoreUnavailable(f"{what} is closed: this instance is shutting down; ask another one")
