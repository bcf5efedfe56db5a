"""What must hold of the core's state after every event. Asserts; for tests and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.core.copies import CopyState

if TYPE_CHECKING:
    from shoal.core.node import Core


def check(core: Core) -> None:
    _check_books(core)
    _check_copies(core)
    _check_hints(core)
    _check_tickets(core)
    _check_plays(core)


def _check_books(core: Core) -> None:
    cache, copies = core.cache, core.cache.copies
    count, size = dict.fromkeys(CopyState, 0), dict.fromkeys(CopyState, 0)
    for copy in copies.values():
        count[copy.state] += 1
        size[copy.state] += copy.size_bytes
    assert cache.ledger.count == count
    assert cache.ledger.bytes == size
    assert cache.ledger.protected_bytes == sum(
        copy.size_bytes for copy in copies.values()
        if copy.state is CopyState.READY and copy.is_protected)
    _check_pools(core)
    assert cache.ledger.count[CopyState.LOADING] <= (
        core.options.load_concurrency + core.options.downloads)
    assert all(copies[key].state is CopyState.LOADING for key in cache.coming)
    queued = {key for key, copy in copies.items() if copy.state is CopyState.QUEUED}
    assert len(cache.queue) == len(queued)
    assert all(key in cache.queue for key in queued)


def _check_pools(core: Core) -> None:
    """A copy that turned out larger than foreseen may be too much until what left for it is gone;
    beside that a budget is never exceeded."""
    cache = core.cache
    for copy in cache.copies.values():
        assert copy.device is not None or not copy.accelerator_bytes
        assert copy.device is None or copy.state is not CopyState.QUEUED
    for name, pool in cache.pools.items():
        there = [copy for copy in cache.copies.values() if copy.device == name]
        size = dict.fromkeys(CopyState, 0)
        for copy in there:
            size[copy.state] += copy.accelerator_bytes
        assert pool.bytes == size
        assert pool.protected_bytes == sum(
            copy.accelerator_bytes for copy in there
            if copy.state is CopyState.READY and copy.is_protected)
        staying = pool.booked_bytes - size[CopyState.UNLOADING] - pool.protected_bytes
        assert staying <= pool.budget_bytes, f"{name} holds {staying} of {pool.budget_bytes}"


def _check_copies(core: Core) -> None:
    listed = {key: name for name, keys in core.holder.by_model.items() for key in keys}
    assert listed.keys() == core.cache.copies.keys()
    for key, copy in core.cache.copies.items():
        assert copy.revision.id == key
        assert copy.revision.model == listed[key]


def _check_hints(core: Core) -> None:
    me = core.options.me
    for (name, _), hint in core.entry.hints.items():
        assert hint.holders
        assert hint.revision.startswith(f"{name}@")
        if hint.here:
            assert me in hint.holders
            assert core.holder.is_ready(hint.revision), f"{name} is routed to what is not ready"
        else:
            assert me not in hint.holders


def _check_tickets(core: Core) -> None:
    copies, holder = core.cache.copies, core.holder
    waiting = {ticket: copy for copy in copies.values() for ticket in copy.tickets}
    assert waiting.keys() == holder.waiting.keys()
    assert holder.forwarded.keys() <= waiting.keys()
    for ticket, copy in waiting.items():
        assert holder.waiting[ticket] == copy.revision.id
        assert copy.state is not CopyState.READY
        assert copy.wanted_again or copy.state is not CopyState.UNLOADING
        assert copy.released is None
        assert ticket in core.entry.waiting or ticket in holder.forwarded


def _check_plays(core: Core) -> None:
    for name, play in core.models.items():
        assert name == play.record.name
        for revision, holdings in play.holdings.items():
            assert holdings
            known = play.refers_to(revision) or all(
                each.released or each.state.value == "leaving" for each in holdings.values())
            assert known, f"{revision} is held for nothing"
        for version, slot in play.slots.items():
            assert slot.version == version
            assert slot.target is None or slot.target.id != slot.active.id
