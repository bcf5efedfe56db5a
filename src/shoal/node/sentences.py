"""Tells a model's story in sentences, from what all instances know of it. Pure: looks nothing up.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.domain.serving_runtime import OWN
from shoal.domain.views import CopyView, FailureView, ModelView, State
from shoal.node.questions import Facts


def summary(
    model: ModelView, told: Sequence[Facts], now: float, *, several: bool
) -> list[str]:
    """A few sentences, most important first.

    model: as all instances together see it. told: what each knows, the model's home first. now:
    seconds since the epoch. several: are there other instances, so that it matters where?
    """
    home = told[0]
    lines = [_state(model, told, several), *_devices(model, several)]
    runtime = next((v.runtime for v in model.versions if v.revision == model.serving), OWN)
    if runtime != OWN:
        lines.append(f"It is loaded by the serving runtime {runtime}.")
    if several:
        lines.append(f"Instance {model.home} decides about it.")
    if model.pending is not None:
        staged = _places([copy for copy in model.where if copy.revision == model.pending])
        there = f" (it is {staged})" if staged and several else ""
        lines.append(f"Revision {model.pending} takes over as soon as it is loaded{there}; until "
                     f"then {model.serving} answers.")
    if model.problem is not None:
        lines.append(f"Its declaration has a problem: {model.problem}.")
    for revision, tried in home.tried.items():
        said = "; ".join(f"on {instance}: {message}" for instance, message in tried.items())
        lines.append(f"Loading {revision} failed just now, {said}. Others try it next.")
    lines += [_failure(failure, now) for failure in home.failures]
    lines += dict.fromkeys(note for facts in told for note in facts.notes)
    if model.pin:
        lines.append("It is pinned: never evicted for room.")
    return lines


def _state(model: ModelView, told: Sequence[Facts], several: bool) -> str:
    name = model.name
    version = next((v for v in model.versions if v.revision == model.serving), None)
    match model.state:
        case State.READY:
            used = "" if version is None or not version.requests else (
                f"; it answered {version.requests:,} requests since")
            there = _on(model) if several else _why_loaded(model)
            return f"{name} is loaded{there} and answers at once{used}."
        case State.LOADING:
            there = _on(model) if several else ""
            return f"{name} is being loaded{there}; requests wait for it."
        case State.QUEUED:
            queued = next((facts.queued for facts in told if facts.queued), 0)
            there = _on(model) if several else ""
            return f"{name} waits to be loaded{there}, with {queued} other loads queued."
        case State.FAILED:
            too_large = [v.error for v in model.versions if v.revision == model.serving]
            failed = any(failure.revision == model.serving for failure in told[0].failures)
            if any(too_large) and not failed:
                return f"{name} is not loaded: {too_large[0]}."
            return f"{name} is not loaded: the last try failed."
        case State.UNLOADED:
            return f"{name} was taken out of service by hand; 'shoal load {name}' brings it back."
        case State.INVALID:
            return f"{name} cannot be served: nothing servable was found at {model.uri}."
    left = next((facts.left for facts in told if facts.left is not None), None)
    why = "nobody has asked for it yet" if left is None else f"it left memory: {left}"
    return f"{name} is not in memory ({why}); the next request loads it."


def _devices(model: ModelView, several: bool) -> list[str]:
    return [
        f"{f'Its copy on {copy.instance}' if several else 'It'} lies on the accelerator "
        f"{copy.device} and takes {copy.accelerator_bytes or 0:,} bytes there."
        for copy in _serving(model) if copy.device is not None
    ]


def _serving(model: ModelView) -> list[CopyView]:
    return [copy for copy in model.where
            if copy.revision == model.serving and copy.state is model.state and not copy.leaving]


def _why_loaded(model: ModelView) -> str:
    reasons = [copy.reason for copy in _serving(model) if copy.reason is not None]
    return f" (reason: {reasons[0]})" if reasons else ""


def _on(model: ModelView) -> str:
    places = _listed([
        copy.instance if copy.reason is None else f"{copy.instance} (reason: {copy.reason})"
        for copy in _serving(model)
    ])
    return f" on {places}" if places else ""


def _places(copies: Sequence[CopyView]) -> str:
    return _listed([f"{copy.state} on {copy.instance}" for copy in copies])


def _listed(names: Sequence[str]) -> str:
    return " and ".join([part for part in (", ".join(names[:-1]), names[-1]) if part]) \
        if names else ""


def _failure(failure: FailureView, now: float) -> str:
    times = "once" if failure.count == 1 else f"{failure.count} times"
    wait_s = max((failure.next_try_at or now) - now, 0.0)
    again = f"A request in {wait_s:.0f} s or later" if wait_s >= 1 else "The next request"
    return (f"Loading {failure.revision} failed {times}: {failure.message}. {again}, or "
            "'shoal load', tries again.")
