"""Describes models as people see them: their state, and why it is so. Reads the instance only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shoal.core.copies import CopyState
from shoal.core.failures import Failure
from shoal.core.slots import ModelInPlay, Slot
from shoal.domain.events import served
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.views import FailureView, ModelView, State, Story, VersionView
from shoal.node.optimizing import AFTER_USES

if TYPE_CHECKING:
    from shoal.node.instance import Instance

EVENTS: Final = 20  # in a story

_STATES: Final = {
    CopyState.QUEUED: State.QUEUED,
    CopyState.LOADING: State.LOADING,
    CopyState.READY: State.READY,
    CopyState.UNLOADING: State.COLD,
}


def state_of(instance: Instance, revision: Revision) -> State:
    core = instance.core
    play = core.models.get(revision.model)
    if play is not None and play.is_out_of_service(revision):
        return State.UNLOADED
    copy = core.cache.copies.get(revision.id)
    if copy is not None and copy.state is not CopyState.UNLOADING:
        return _STATES[copy.state]
    failed = core.failures.of(revision.id) is not None or core.cache.too_large(revision)
    return State.FAILED if failed else State.COLD


def state_of_model(instance: Instance, record: ModelRecord) -> State:
    """That of the revision that answers requests without a version."""
    slot = _default_slot(instance, record)
    serving = slot.active if slot is not None else served(record, None)
    return State.INVALID if serving is None else state_of(instance, serving)


def view(instance: Instance, record: ModelRecord) -> ModelView:
    slot = _default_slot(instance, record)
    versions = [_version(instance, revision) for revision in record.revisions]
    serving = slot.active if slot is not None else served(record, None)
    ready = instance.default.get(record.name)
    return ModelView(
        name=record.name,
        state=State.INVALID if serving is None else state_of(instance, serving),
        uri=record.spec.uri,
        origin=record.origin,
        registered_at=record.registered_at,
        versions=versions,
        default_version=None if serving is None else serving.version,
        serving=None if serving is None else serving.id,
        pending=slot.target.id if slot is not None and slot.target is not None else None,
        problem=record.problem,
        pin=record.spec.pin,
        priority=record.spec.priority,
        labels=record.spec.labels,
        inputs=list(ready.signature.inputs if ready else serving.inputs if serving else ()),
        outputs=list(ready.signature.outputs if ready else serving.outputs if serving else ()),
    )


def tell(instance: Instance, record: ModelRecord) -> Story:
    model = view(instance, record)
    slot = _default_slot(instance, record)
    revisions = {each.id: each for each in record.revisions}
    if slot is not None:
        revisions |= {each.id: each for each in (slot.active, slot.target) if each is not None}
    failures = [
        _failure(instance, revision, failure)
        for revision in revisions
        if (failure := instance.core.failures.of(revision)) is not None
    ]
    return Story(
        model=model,
        summary=_summary(instance, record, model, failures),
        failures=failures,
        events=instance.journal.last_of(record.name, EVENTS),
    )


def _default_slot(instance: Instance, record: ModelRecord) -> Slot | None:
    play: ModelInPlay | None = instance.core.models.get(record.name)
    return play.slots.get(None) if play is not None and not play.removed else None


def _version(instance: Instance, revision: Revision) -> VersionView:
    live = instance.live.get(revision.id)
    copy = instance.core.cache.copies.get(revision.id)
    size = instance.core.cache.sizes.predict(revision)
    failure = instance.core.failures.of(revision.id)
    usage = instance.replica.usage.get(revision.model)
    last_used: float | None = None
    if usage is not None and usage.artifact_digest == revision.artifact_digest:
        last_used = usage.last_used
    if live is not None and live.last_used:
        last_used = _wall(instance, live.last_used)
    return VersionView(
        version=revision.version,
        revision=revision.id,
        state=state_of(instance, revision),
        format=revision.format,
        uri=revision.uri,
        files_bytes=revision.files_bytes,
        size_bytes=size.size_bytes if size.known else None,
        loaded_at=_wall(instance, copy.loaded_at) if copy and copy.loaded_at else None,
        last_used=last_used,
        requests=live.uses if live is not None else 0,
        error=failure.message if failure is not None else (
            instance.core.cache.too_large(revision)),
        optimized=outcome.note if (outcome := instance.optimizer.outcome(revision.id)) else None,
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


def _wall(instance: Instance, at: float) -> float:
    """A time of the monotonic clock as seconds since the epoch."""
    return round(instance.clock.wall() - (instance.clock.monotonic() - at), 3)


def _summary(
    instance: Instance, record: ModelRecord, model: ModelView, failures: list[FailureView]
) -> list[str]:
    lines = [_state_line(instance, record, model)]
    if model.pending is not None:
        lines.append(f"Revision {model.pending} takes over as soon as it is loaded; until then "
                     f"{model.serving} answers.")
    if record.problem is not None:
        lines.append(f"Its declaration has a problem: {record.problem}.")
    now = instance.clock.wall()
    for failure in failures:
        times = "once" if failure.count == 1 else f"{failure.count} times"
        wait_s = max((failure.next_try_at or now) - now, 0.0)
        again = f"A request in {wait_s:.0f} s or later" if wait_s >= 1 else "The next request"
        lines.append(f"Loading {failure.revision} failed {times}: {failure.message}. {again}, or "
                     "'shoal load', tries again.")
    for version in model.versions:
        if version.optimized is not None:
            which = "It" if len(model.versions) == 1 else f"Version {version.version}"
            lines.append(f"{which} is {version.optimized}.")
    copy = instance.live.get(model.serving or "")
    if copy is not None and instance.optimizer.is_to_come(copy):
        lines.append(f"A faster form of it is looked for (optimize: auto) once it has answered "
                     f"{AFTER_USES} requests.")
    if model.pin:
        lines.append("It is pinned: never evicted for room.")
    return lines


def _state_line(instance: Instance, record: ModelRecord, model: ModelView) -> str:
    name = record.name
    version = next((v for v in model.versions if v.revision == model.serving), None)
    match model.state:
        case State.READY:
            used = "" if version is None or not version.requests else (
                f"; it answered {version.requests:,} requests since")
            reason = instance.core.cache.copies[model.serving or ""].reason
            return f"{name} is loaded (reason: {reason}) and answers at once{used}."
        case State.LOADING:
            return f"{name} is being loaded; requests wait for it."
        case State.QUEUED:
            ahead = len(instance.core.cache.queue) - 1
            return f"{name} waits to be loaded, with {ahead} other loads queued."
        case State.FAILED:
            too_large = [v.error for v in model.versions if v.revision == model.serving]
            if any(too_large) and instance.core.failures.of(model.serving or "") is None:
                return f"{name} is not loaded: {too_large[0]}."
            return f"{name} is not loaded: the last try failed."
        case State.UNLOADED:
            return f"{name} was taken out of service by hand; 'shoal load {name}' brings it back."
        case State.INVALID:
            return f"{name} cannot be served: nothing servable was found at {record.spec.uri}."
    left = next(
        (event for event in reversed(instance.journal.last_of(name, EVENTS))
         if event.kind in ("evicted", "unloaded")), None)
    why = "nobody has asked for it yet" if left is None else f"it left memory: {left.reason}"
    return f"{name} is not in memory ({why}); the next request loads it."
