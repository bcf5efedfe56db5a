"""Makes one view of what several instances told of the same things. Pure: asks nobody.

An instance is believed about its own copies, a model's home about all else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from shoal.domain.mesh import Figures, Member
from shoal.domain.views import (
    BusyModel,
    CopyView,
    EventPage,
    EventView,
    InstanceView,
    ModelView,
    PoolView,
    State,
    Totals,
    VersionView,
)
from shoal.node.questions import Facts, Report

BUSIEST: Final = 20
SETTLED_US: Final = 250_000
"""How far clocks may be apart, and an answer under way, for events of all instances to come in
order: younger ones are told the next time."""

ALIKE_US: Final = 10_000_000
"""How far apart instances may hear of the same declaration."""

_DECLARATIONS: Final = frozenset(("declared", "removed", "model_problem"))
_BEST_FIRST: Final = (State.READY, State.LOADING, State.QUEUED)


# --- models ---------------------------------------------------------------------------------------


def one_model(told: Mapping[str, ModelView], me: str) -> ModelView:
    """told: what instances told of it, `me` among them, who is taken for the home if that did not
    answer."""
    if len(told) == 1:
        return told[me]
    base = told[home_of(told, me)]
    where = _where(base, told)
    versions = [_one_version(version, told, where) for version in base.versions]
    served = next((each.state for each in versions if each.revision == base.serving), None)
    signed = next((each for each in told.values() if each.inputs or each.outputs), base)
    return replace(
        base,
        state=served or _best(base.state, base.serving, where),
        versions=versions,
        inputs=base.inputs or signed.inputs,
        outputs=base.outputs or signed.outputs,
        where=where,
    )


def home_of(told: Mapping[str, ModelView], me: str) -> str:
    """Who decides about it: the instance that is taken for its home and says so itself, else any
    other that does, since news of members travel; else `me`."""
    claims = [each for each, view in told.items() if view.home == each]
    return next((each for each in (told[me].home, *claims) if each in claims), me)


def _where(base: ModelView, told: Mapping[str, ModelView]) -> list[CopyView]:
    copies = {(copy.revision, copy.instance): copy for copy in base.where}
    for instance, view in told.items():
        for copy in view.where:
            if copy.instance == instance:
                copies[copy.revision, instance] = copy
    return [copies[key] for key in sorted(copies)]


def _best(state: State, revision: str | None, where: Sequence[CopyView]) -> State:
    """What a copy makes of the state that the home tells."""
    if state in (State.UNLOADED, State.INVALID):
        return state
    there = {copy.state for copy in where if copy.revision == revision and not copy.leaving}
    return next((each for each in (*_BEST_FIRST, state) if each in there or each is state), state)


def _one_version(
    base: VersionView, told: Mapping[str, ModelView], where: Sequence[CopyView]
) -> VersionView:
    alike = [each for view in told.values() for each in view.versions
             if each.revision == base.revision]
    sizes = [copy.size_bytes for copy in where
             if copy.revision == base.revision and copy.size_bytes and copy.state is State.READY]
    return replace(
        base,
        state=_best(base.state, base.revision, where),
        size_bytes=max(sizes) if sizes else base.size_bytes,
        loaded_at=max((each.loaded_at for each in alike if each.loaded_at), default=None),
        last_used=max((each.last_used for each in alike if each.last_used), default=None),
        requests=sum(each.requests for each in alike),
        optimized=next((each.optimized for each in alike if each.optimized), None),
    )


def one_story(told: Mapping[str, Facts], me: str) -> tuple[ModelView, list[Facts]]:
    """The model, and what was told of it, its home's word first."""
    models = {each: facts.model for each, facts in told.items()}
    home = home_of(models, me)
    others = [facts for each, facts in told.items() if each != home]
    return one_model(models, me), [told[home], *others]


def last_events(told: Mapping[str, Sequence[EventView]], most: int) -> list[EventView]:
    """The last ones of all instances, in order of time."""
    return _once(sorted(_named(told), key=_order))[-most:]


# --- events ---------------------------------------------------------------------------------------


def one_page(
    told: Mapping[str, EventPage], after: int, limit: int, now: float
) -> EventPage:
    """What is next behind `after`, where each of `told` is the next of one instance. now: seconds
    since the epoch. A page may be longer than `limit`, by events of one and the same time, or
    shorter, where several instances heard of the same."""
    until = int(now * 1e6) - SETTLED_US
    pages = {instance: page.events for instance, page in told.items()}
    events = sorted((each for each in _named(pages) if each.seq <= until), key=_order)
    if len(events) < limit:
        return EventPage(_once(events), max(after, until))
    last = events[limit - 1].seq
    return EventPage(_once([each for each in events if each.seq <= last]), last)


def _once(events: Sequence[EventView]) -> list[EventView]:
    """Declarations, of which every instance hears, only as the first one heard."""
    heard: dict[tuple[str, str | None, str], EventView] = {}
    found = []
    for event in events:
        if event.kind in _DECLARATIONS:
            key = event.kind, event.model, event.message
            first = heard.setdefault(key, event)
            if first.instance != event.instance and event.seq - first.seq < ALIKE_US:
                continue
            heard[key] = event
        found.append(event)
    return found


def _named(told: Mapping[str, Sequence[EventView]]) -> Iterable[EventView]:
    return (replace(each, instance=instance) for instance, events in told.items()
            for each in events)


def _order(event: EventView) -> tuple[int, str]:
    return event.seq, event.instance


# --- the mesh -------------------------------------------------------------------------------------


def silent_instance(
    member: Member, figures: Figures, since: float | None, problem: str
) -> InstanceView:
    """An instance that does not answer, as the registry and its last figures have it."""
    used = {pool.name: pool.used_bytes for pool in figures.pools}
    return InstanceView(
        id=member.id,
        host=member.host,
        pid=member.pid,
        version=member.version,
        state=member.state.value,
        started_at=member.started_at,
        http_address=member.http_address,
        management_address=member.management_address,
        budget_bytes=member.budget_bytes,
        used_bytes=figures.used_bytes,
        reserved_bytes=0,
        process_bytes=0,
        copies=figures.copies,
        loading=0,
        queued=figures.queued,
        waiting_requests=figures.waiting_requests,
        pressure=figures.pressure,
        cache_age_s=None,
        thrashing=False,
        grpc_address=member.grpc_address,
        zone=member.zone,
        labels=member.labels,
        load=figures.load,
        peer_address=member.address,
        unreachable_since=since,
        problem=problem,
        pools=[PoolView(pool.name, pool.budget_bytes, used.get(pool.name, 0))
               for pool in member.pools],
    )


def totals(reports: Iterable[Report]) -> Totals:
    sums: dict[str, int] = dict.fromkeys(Totals.__struct_fields__, 0)
    for report in reports:
        for name in sums:
            sums[name] += getattr(report.totals, name)
    return Totals(**sums)


def in_play(reports: Iterable[Report]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for report in reports:
        for state, count in report.in_play.items():
            sums[state] = sums.get(state, 0) + count
    return sums


def busiest(reports: Iterable[Report]) -> list[BusyModel]:
    """Rates, sizes and holders of the same model taken together; the latency is the mean over all
    requests."""
    found: dict[str, BusyModel] = {}
    for report in reports:
        for model in report.busiest:
            known = found.get(model.name)
            found[model.name] = model if known is None else _both(known, model)
    order = sorted(found.values(), key=lambda model: (-model.requests_per_s, model.name))
    return order[:BUSIEST]


def _both(one: BusyModel, other: BusyModel) -> BusyModel:
    rate = one.requests_per_s + other.requests_per_s
    means = [(each.mean_latency_s, each.requests_per_s) for each in (one, other)
             if each.mean_latency_s is not None]
    weight = sum(share for _, share in means)
    sizes = [each.size_bytes for each in (one, other) if each.size_bytes is not None]
    return replace(
        one,
        state=State.READY if State.READY in (one.state, other.state) else one.state,
        requests_per_s=round(rate, 3),
        mean_latency_s=sum(mean * share for mean, share in means) / weight if weight else None,
        size_bytes=sum(sizes) if sizes else None,
        instances=sorted({*one.instances, *other.instances}),
    )


def problems(told: Mapping[str, Sequence[str]], missing: Sequence[str]) -> list[str]:
    """What all tell alike is told once; else it is said who tells it. missing: who tells nothing,
    and why."""
    tellers: dict[str, list[str]] = {}
    for instance, said in told.items():
        for problem in said:
            tellers.setdefault(problem, []).append(instance)
    return [*missing, *(
        problem if len(who) == len(told) else f"{', '.join(who)}: {problem}"
        for problem, who in tellers.items()
    )]
