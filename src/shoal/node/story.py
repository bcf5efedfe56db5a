"""Describes models as this instance sees them: their state, where they are, and why it is so.

What it sees of copies elsewhere is what it was told: as the home of a model all there is, otherwise
who answers for it. Reads the instance only; asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from shoal.core.copies import CopyState
from shoal.core.failures import Failure
from shoal.core.plays import Holding, HoldingState, Play, Slot
from shoal.domain.events import served
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.serving_runtime import OWN
from shoal.domain.views import CopyView, FailureView, ModelView, State, VersionView
from shoal.node.optimizing import AFTER_USES
from shoal.node.questions import Facts

if TYPE_CHECKING:
    from shoal.node.instance import Instance

EVENTS: Final = 20  # in a story

_STATES: Final = {
    CopyState.QUEUED: State.QUEUED,
    CopyState.LOADING: State.LOADING,
    CopyState.READY: State.READY,
    CopyState.UNLOADING: State.COLD,
}


# --- states ---------------------------------------------------------------------------------------


def state_of(instance: Instance, record: ModelRecord, revision: Revision) -> State:
    """The best that a copy of it has anywhere, as far as it is known here. record: of its model."""
    core = instance.core
    play = core.models.get(revision.model)
    out = record.out_of_service if play is None else play.out_of_service
    if None in out or revision.version in out:
        return State.UNLOADED
    here = core.cache.copies.get(revision.id)
    state = _STATES[here.state] if here is not None else State.COLD
    if state is State.READY or _answers_elsewhere(instance, revision):
        return State.READY
    if state is not State.COLD:
        return state
    if play is not None and any(
        each != core.view.me and core.view.is_reachable(each) for each in play.coming(revision.id)
    ):
        return State.LOADING
    failed = core.failures.of(revision.id) is not None or core.too_large(revision)
    return State.FAILED if failed else State.COLD


def _answers_elsewhere(instance: Instance, revision: Revision) -> bool:
    core = instance.core
    if core.view.alone:
        return False
    play = core.models.get(revision.model)
    if play is not None:
        return any(
            each != core.view.me and core.view.is_reachable(each)
            for each in play.ready(revision.id)
        )
    for version in (None, revision.version):
        there = instance.elsewhere(revision.model, version)
        if there is not None and there.revision == revision.id:
            return True
    return False


def state_of_model(instance: Instance, record: ModelRecord) -> State:
    """That of the revision that answers requests without a version."""
    serving = _serving(instance, record)
    return State.INVALID if serving is None else state_of(instance, record, serving)


def _serving(instance: Instance, record: ModelRecord) -> Revision | None:
    """Where this instance is not the home, it knows best from the copy that it has itself."""
    slot = _default_slot(instance, record)
    if slot is not None:
        return slot.active
    copy = instance.find(record.name, None)
    return copy.revision if copy is not None else served(record, None)


def _default_slot(instance: Instance, record: ModelRecord) -> Slot | None:
    play: Play | None = instance.core.models.get(record.name)
    return play.slots.get(None) if play is not None and not play.removed else None


# --- views ----------------------------------------------------------------------------------------


def view(instance: Instance, record: ModelRecord) -> ModelView:
    slot = _default_slot(instance, record)
    serving = _serving(instance, record)
    ready = instance.find(record.name, None)
    return ModelView(
        name=record.name,
        state=State.INVALID if serving is None else state_of(instance, record, serving),
        uri=record.spec.uri,
        origin=record.origin,
        registered_at=record.registered_at,
        versions=[_version(instance, record, revision) for revision in record.revisions],
        default_version=None if serving is None else serving.version,
        serving=None if serving is None else serving.id,
        pending=slot.target.id if slot is not None and slot.target is not None else None,
        problem=record.problem,
        problem_code=record.problem_code,
        pin=record.spec.pin,
        priority=record.spec.priority,
        labels=record.spec.labels,
        inputs=list(ready.signature.inputs if ready else serving.inputs if serving else ()),
        outputs=list(ready.signature.outputs if ready else serving.outputs if serving else ()),
        home=instance.core.view.home(record.name),
        where=[*_copies_here(instance, record.name), *_copies_elsewhere(instance, record)],
    )


def is_known(instance: Instance, name: str) -> bool:
    """Is anything of the model loaded or decided here?"""
    return name in instance.core.models or name in instance.core.holder.by_model


def _version(instance: Instance, record: ModelRecord, revision: Revision) -> VersionView:
    live = instance.live.get(revision.id)
    copy = instance.core.cache.copies.get(revision.id)
    cache = instance.core.cache
    sizes = cache.sizes if cache.kind(revision) is None else cache.sizes.accelerated
    size = sizes.predict(revision)
    failure = instance.core.failures.of(revision.id)
    outcome = instance.copies.optimizer.outcome(revision.id)
    usage = instance.replica.usage.get(revision.model)
    last_used: float | None = None
    if usage is not None and usage.artifact_digest == revision.artifact_digest:
        last_used = usage.last_used or None
    if live is not None and live.last_used:
        last_used = _wall(instance, live.last_used)
    return VersionView(
        version=revision.version,
        revision=revision.id,
        state=state_of(instance, record, revision),
        format=revision.format,
        runtime=revision.runtime or OWN,
        uri=revision.uri,
        files_bytes=revision.files_bytes,
        size_bytes=size.size_bytes if size.known else None,
        loaded_at=_wall(instance, copy.loaded_at) if copy and copy.loaded_at else None,
        last_used=last_used,
        requests=live.uses if live is not None else 0,
        error=failure.message if failure is not None else instance.core.too_large(revision),
        optimized=outcome.note if outcome is not None else None,
    )


def _copies_here(instance: Instance, name: str) -> Iterator[CopyView]:
    core = instance.core
    for revision in core.holder.by_model.get(name, ()):
        copy, live = core.cache.copies[revision], instance.live.get(revision)
        state, coming = _STATES[copy.state], instance.loader.coming(revision)
        serving = live is not None and instance.find(name, None) is live
        rate = instance.activity.rate(name, instance.clock.monotonic()) if serving else 0.0
        yield CopyView(
            instance=core.view.me,
            revision=revision,
            version=copy.revision.version,
            state=State.READY if copy.state is CopyState.UNLOADING else state,
            size_bytes=copy.size_bytes or None,
            since=_wall(instance, copy.loaded_at) if copy.loaded_at else None,
            last_used=_wall(instance, live.last_used) if live and live.last_used else None,
            requests=live.uses if live is not None else 0,
            requests_per_s=round(rate, 3),
            reason=copy.reason.value,
            leaving=copy.state is CopyState.UNLOADING,
            downloaded_bytes=coming.done_bytes if coming else None,
            download_bytes=coming.all_bytes if coming else None,
            device=copy.device,
            accelerator_bytes=copy.accelerator_bytes or None,
        )


def _copies_elsewhere(instance: Instance, record: ModelRecord) -> Iterator[CopyView]:
    """As their home was told; as who forwards requests was told."""
    core = instance.core
    play = core.models.get(record.name)
    if play is not None:
        for revision, holdings in play.holdings.items():
            for holder, holding in holdings.items():
                if holder != core.view.me:
                    yield _held(instance, revision, holder, holding)
        return
    there = instance.elsewhere(record.name, None)
    for holder in there.holders if there is not None else ():
        assert there is not None
        yield CopyView(holder, there.revision, _version_of(there.revision), State.READY)


def _held(instance: Instance, revision: str, holder: str, holding: Holding) -> CopyView:
    now = instance.clock.monotonic()
    return CopyView(
        instance=holder,
        revision=revision,
        version=_version_of(revision),
        state=State.LOADING if holding.state is HoldingState.GRANTED else State.READY,
        size_bytes=holding.size_bytes or None,
        since=_wall(instance, holding.since),
        last_used=_wall(instance, holding.used_at) if holding.used_at > 0 else None,
        requests_per_s=round(holding.rate_at(now), 3),
        leaving=holding.state is HoldingState.LEAVING or holding.released is not None,
        device=holding.device,
        accelerator_bytes=holding.accelerator_bytes or None,
    )


def _version_of(revision: str) -> int:
    """As `Revision.id` is made."""
    return int(revision.rpartition("@")[2].partition("-")[0])


# --- the story ------------------------------------------------------------------------------------


def facts(instance: Instance, record: ModelRecord) -> Facts:
    model = view(instance, record)
    slot = _default_slot(instance, record)
    play = instance.core.models.get(record.name)
    revisions = {each.id: each for each in record.revisions}
    if slot is not None:
        revisions |= {each.id: each for each in (slot.active, slot.target) if each is not None}
    events = instance.journal.last_of(record.name, EVENTS)
    return Facts(
        model=model,
        failures=[
            _failure(instance, revision, failure)
            for revision in revisions
            if (failure := instance.core.failures.of(revision)) is not None
        ],
        tried={} if play is None else {each: dict(how) for each, how in play.tried.items()},
        notes=_notes(instance, model),
        queued=max(len(instance.core.cache.queue) - 1, 0),
        left=next((each.reason for each in reversed(events)
                   if each.kind in ("evicted", "unloaded")), None),
        events=events,
    )


def _failure(instance: Instance, revision: str, failure: Failure) -> FailureView:
    return FailureView(
        revision=revision,
        code=failure.code,
        message=failure.message,
        count=failure.count,
        first_at=_wall(instance, failure.first_at),
        last_at=_wall(instance, failure.last_at),
        next_try_at=_wall(instance, failure.retry_at),
    )


def _notes(instance: Instance, model: ModelView) -> list[str]:
    """What came of looking for a faster form."""
    lines = []
    for version in model.versions:
        if version.optimized is not None:
            which = "It" if len(model.versions) == 1 else f"Version {version.version}"
            lines.append(f"{which} is {version.optimized}.")
    copy = instance.live.get(model.serving or "")
    if copy is not None and instance.copies.optimizer.is_to_come(copy):
        lines.append(f"A faster form of it is looked for (optimize: auto) once it has answered "
                     f"{AFTER_USES} requests.")
    return lines


def _wall(instance: Instance, at: float) -> float:
    """A time of the monotonic clock as seconds since the epoch."""
    return round(instance.clock.wall() - (instance.clock.monotonic() - at), 3)
