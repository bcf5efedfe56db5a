"""Whether a request may wait for a load, and the words for why not; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.core.cache import Cache
from shoal.core.copies import Copy, CopyState, Urgency
from shoal.core.slots import Slot
from shoal.domain.model import Revision

if TYPE_CHECKING:
    from shoal.core.node import Core


@dataclass(frozen=True, slots=True)
class Refusal:
    """`code`: of a class in `domain.errors`. `retry_after_s`: when it may go better."""

    code: str
    message: str
    retry_after_s: float


def refusal(core: Core, slot: Slot, copy: Copy | None, now: float) -> Refusal | None:
    """Why a request may not wait for the slot's active revision; None when it may."""
    name, options = slot.name, core.options
    if len(core.tickets) >= options.max_waiting:
        return Refusal(
            "OVERLOADED",
            f"model {name!r} is not loaded and {len(core.tickets)} requests wait for loads already "
            "(load.max_waiting); try again later",
            1.0,
        )
    if copy is not None:
        if len(copy.tickets) >= options.max_waiting_per_model:
            return Refusal(
                "OVERLOADED",
                f"{len(copy.tickets)} requests wait for model {name!r} to be loaded already "
                "(load.max_waiting_per_model); try again later",
                1.0,
            )
        if copy.state is CopyState.LOADING or copy.wanted_again:
            return None
        if copy.state is CopyState.QUEUED and copy.urgency is Urgency.REQUEST:
            return None
    failure = core.failures.of(slot.active.id)
    if failure is not None and now < failure.retry_at:
        newest = core.failures.of(slot.target.id) if slot.target is not None else None
        return Refusal(failure.code, (newest or failure).message, failure.retry_at - now)
    too_large = core.cache.too_large(slot.active)
    if too_large is not None:
        return Refusal("TOO_LARGE", too_large, options.retry_max_s)
    return _congestion(core.cache, slot.active, now)


def _congestion(cache: Cache, revision: Revision, now: float) -> Refusal | None:
    wait_s, name = cache.predicted_wait_s, revision.model
    if wait_s > 2 * cache.options.max_wait_s:
        return Refusal(
            "OVERLOADED",
            f"model {name!r} is not loaded and would wait about {wait_s:.0f} s for the loads "
            "before it (load.max_wait_s); try again later",
            wait_s,
        )
    if not cache.is_thrashing(now) or cache.is_worth_a_load(revision, now):
        return None
    return Refusal(
        "THRASHING",
        f"model {name!r} is not loaded; loads queue for {wait_s:.0f} s while models are evicted "
        "for them, and it is worth less than what it would displace; give this instance more "
        "memory, or try again later",
        wait_s,
    )


def no_room(cache: Cache, revision: Revision, need_bytes: int) -> str:
    return (
        f"model {revision.model!r} needs {need_bytes:,} bytes of memory; the budget is "
        f"{cache.options.budget_bytes:,} bytes, of which {max(cache.free_bytes, 0):,} are free and "
        "the rest is pinned or cannot leave now; raise --memory, unpin a model, or try again later"
    )
