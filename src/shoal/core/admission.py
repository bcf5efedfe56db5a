"""Whether a load may wait here, and the words for why not; changes nothing."""

from __future__ import annotations

from shoal.core.cache import Cache, Need
from shoal.core.copies import Copy
from shoal.core.desk import Refusal, model_of
from shoal.core.options import Options
from shoal.domain.model import Revision


def too_many_wait(options: Options, waiting: int, revision: str) -> Refusal | None:
    """revision: its id, or the model's name."""
    if waiting < options.max_waiting:
        return None
    return Refusal(
        "OVERLOADED",
        f"model {model_of(revision) or revision!r} is not loaded and {waiting} requests wait for "
        "loads already (load.max_waiting); try again later",
        1.0,
    )


def refusal(cache: Cache, revision: Revision, now: float) -> Refusal | None:
    """Why a request may not wait for a load of `revision`; None when it may."""
    too_large = cache.too_large(revision)
    if too_large is not None:
        return Refusal("TOO_LARGE", too_large, cache.options.retry_max_s)
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


def no_room_to_fill(cache: Cache, revision: Revision) -> Refusal | None:
    if cache.may_fill(cache.foresee(revision)):
        return None
    return Refusal("NO_ROOM", f"there is no free memory for model {revision.model!r}", 1.0)


def no_room(
    cache: Cache, revision: Revision, need: Need, beside: Copy | None = None
) -> str:
    """beside: a copy that answers for the model until this one is loaded, as it cannot be loaded
    again."""
    name, need_bytes, pool = revision.model, need.size_bytes, need.pool
    if pool is not None and need.accelerator_bytes > pool.obtainable_bytes:
        return (
            f"model {name!r} needs {need.accelerator_bytes:,} bytes of the accelerator "
            f"{pool.name}; the budget there is {pool.budget_bytes:,} bytes, of which "
            f"{max(pool.free_bytes, 0):,} are free and the rest is pinned, cannot leave now or is "
            "held by calls in progress; raise --accelerator-memory, unpin a model, or try again "
            "later"
        )
    needs = (
        f"model {name!r} needs {need_bytes:,} bytes of memory; the budget is "
        f"{cache.options.budget_bytes:,} bytes, of which {max(cache.free_bytes, 0):,} are free and "
    )
    if beside is not None and need_bytes <= cache.free_bytes + beside.size_bytes:
        return (
            f"{needs}{beside.size_bytes:,} are taken by revision {beside.revision.id}, which "
            "answers until the new files are loaded; raise --memory, or let it go first: unload "
            f"and load model {name!r}"
        )
    return (
        f"{needs}the rest is pinned or cannot leave now; raise --memory, unpin a model, or try "
        "again later"
    )
