"""Reads a registry whole, page after page, and keeps what it says in its compact form.

Between pages others run, and the store may change: `revision` is that of the first page, and what
happened behind it is for a watch to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from shoal.node import records
from shoal.node.usage import UsageTable, unpack
from shoal.ports import Entry, KVStore, Listing

MODELS: Final = "models/"
USAGE: Final = "usage/"
CREDENTIALS: Final = "credentials/"
RUNTIMES: Final = "runtimes/"
PAGE: Final = 2_000  # entries, some milliseconds of work


@dataclass(slots=True)
class Contents:
    """encoded: records by name (see `records`). younger: the names whose records were written
    behind `revision`, and at which. unreadable: what is wrong with other records, by name.
    unreadable_usage: the same of what is said of their use. credentials, runtimes: as they
    are stored."""

    revision: int = 0
    encoded: dict[str, bytes] = field(default_factory=dict)
    pinned: list[str] = field(default_factory=list)
    younger: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    usage: UsageTable = field(default_factory=UsageTable)
    unreadable_usage: list[str] = field(default_factory=list)
    credentials: list[Entry] = field(default_factory=list, repr=False)
    runtimes: list[Entry] = field(default_factory=list)


async def read_contents(store: KVStore) -> Contents:
    """All that is declared, and what is known of its use. Raises StoreUnavailable; StoreDamaged for
    a record that is not what was written."""
    contents = await read_models(store)
    async for listing in _pages(store, USAGE):
        for entry in listing.entries:
            try:
                contents.usage[entry.key.removeprefix(USAGE)] = unpack(entry.value)
            except msgspec.DecodeError as error:
                contents.unreadable_usage.append(
                    f"registry record {entry.key!r} is not readable and is ignored: {error}"
                )
    async for listing in _pages(store, CREDENTIALS):
        contents.credentials += listing.entries
    async for listing in _pages(store, RUNTIMES):
        contents.runtimes += listing.entries
    return contents


async def read_models(store: KVStore) -> Contents:
    """As `read_contents`, without the usage."""
    contents = Contents()
    first = True
    async for listing in _pages(store, MODELS):
        if first:
            contents.revision, first = listing.revision, False
        for entry in listing.entries:
            name = entry.key.removeprefix(MODELS)
            try:
                value = records.compact(name, entry.value)
            except msgspec.DecodeError as error:
                contents.unreadable[name] = not_readable(name, error)
                continue
            contents.encoded[name] = value
            if records.is_pinned(value):
                contents.pinned.append(name)
            if entry.revision > contents.revision:
                contents.younger[name] = entry.revision
    return contents


def not_readable(name: str, error: msgspec.DecodeError) -> str:
    return (
        f"the registry's record of model {name!r} is not readable and is ignored: {error}; "
        "register the model again"
    )


async def _pages(store: KVStore, prefix: str) -> AsyncIterator[Listing]:
    after: str | None = None
    while True:
        listing = await store.list(prefix, start_after=after, limit=PAGE)
        yield listing
        if not listing.more:
            return
        after = listing.entries[-1].key
        await asyncio.sleep(0)  # a store in memory waits for nothing by itself
