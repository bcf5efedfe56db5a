"""What must hold of the core's state after every event. Asserts; for tests and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.core.copies import CopyState

if TYPE_CHECKING:
    from shoal.core.node import Core


def check(core: Core) -> None:
    _check_books(core)
    _check_names(core)
    _check_tickets(core)


def _check_books(core: Core) -> None:
    cache, copies = core.cache, core.cache.copies
    for state in CopyState:
        those = [copy for copy in copies.values() if copy.state is state]
        assert cache.ledger.count[state] == len(those), state
        assert cache.ledger.bytes[state] == sum(copy.size_bytes for copy in those), state
    assert cache.ledger.count[CopyState.LOADING] <= core.options.load_concurrency
    queued = {key for key, copy in copies.items() if copy.state is CopyState.QUEUED}
    assert len(cache.queue) == len(queued)
    assert all(key in cache.queue for key in queued)


def _check_names(core: Core) -> None:
    copies = core.cache.copies
    assert sum(len(play.copies) for play in core.models.values()) == len(copies)
    for name, play in core.models.items():
        assert name == play.record.name
        for key in play.copies:
            copy = copies[key]
            assert copy.revision.model == name
            known = play.refers_to(key) or copy.orphan or copy.state is CopyState.UNLOADING
            assert known, f"{key} is referred to by nothing"
        for version, slot in play.slots.items():
            assert slot.version == version
            active = copies.get(slot.active.id)
            ready = active is not None and active.state is CopyState.READY
            assert slot.routed <= ready, f"{slot} is routed to a copy that is not ready"
            assert slot.target is None or slot.target.id != slot.active.id


def _check_tickets(core: Core) -> None:
    copies = core.cache.copies
    waiting = {ticket: copy for copy in copies.values() for ticket in copy.tickets}
    assert waiting.keys() == core.tickets.keys()
    for ticket, copy in waiting.items():
        assert core.tickets[ticket].active.id == copy.revision.id
        assert copy.state is not CopyState.READY
        assert copy.wanted_again or copy.state is not CopyState.UNLOADING
    leaving = [ticket for copy in copies.values() for ticket in copy.unload_tickets]
    for ticket, count in core.unload_tickets.items():
        assert leaving.count(ticket) == count
