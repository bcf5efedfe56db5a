"""The commands that show the running system: status, top, events, settings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from shoal.cli import instances, render
from shoal.cli.target import AsJson, ask, target_of
from shoal.domain.errors import DeadlineExceeded, Unavailable
from shoal.domain.views import (
    BusyModel,
    EventView,
    Latency,
    SettingView,
    Status,
)

if TYPE_CHECKING:
    from shoal.client import Client

_FOLLOW_S: Final = 1.0
_EVENTS_A_PAGE: Final = 500
_BUSY: Final = ("MODEL", "STATE", "REQUESTS/S", "MEAN LATENCY", "MEMORY")


_Wanted: TypeAlias = tuple[str | None, str | None]  # of which model, of which instance


class _RawEvents(msgspec.Struct):
    events: list[msgspec.Raw]
    next: int
    problems: list[str] = []


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show everything at a glance: models, requests, latency, memory, problems."""
    from shoal.client import calls

    seen = ask(context, calls.status(), Status, as_json=as_json)
    if seen is None:
        return
    for line in _overview(seen):
        render.out().print(line)
    if len(seen.instances) > 1:
        render.say("")
        render.table(instances.OVERVIEW, instances.rows(seen.instances))


def top(
    context: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", help="Print once instead of going on until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks.")
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Watch the instances and the busiest models. Without a terminal, print them once."""
    from shoal.client import calls

    with target_of(context).client() as client:
        console = render.out()
        if as_json:
            render.write_json(client.ask_raw(calls.status()))
        elif once or not console.is_terminal:
            seen = client.status()
            if len(seen.instances) > 1:
                render.table(instances.OVERVIEW, instances.rows(seen.instances))
                render.say("")
            render.table(*_busiest(seen))
        else:
            try:
                _live(client, interval)
            except KeyboardInterrupt:
                pass  # how one leaves


def events(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Only events of this model.")] = None,
    instance: Annotated[str | None, typer.Option(help="Only events of this instance.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show the last so many.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what happened and why, oldest first.

    With --follow, --json prints a document a line.
    """
    with target_of(context).client() as client:
        wanted = (model, instance)
        last, after, problems = _last_events(client, wanted, limit)
        render.problems(problems)
        if as_json and not follow:
            render.write_json(b"[" + b",".join(last) + b"]")
            return
        _print_events(last, as_json)
        while follow:
            page = _page(client, after, wanted)
            render.problems([each for each in page.problems if each not in problems])
            _print_events(page.events, as_json)
            after, problems = page.next, page.problems
            if not page.events:
                time.sleep(_FOLLOW_S)


def settings(
    context: typer.Context,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only those that differ from their default.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the server's settings in force and where each comes from."""
    from shoal.client import calls

    with target_of(context).client() as client:
        document = client.ask_raw(calls.settings())
    if changed:
        kept = [
            each
            for each in msgspec.json.decode(document, type=list[msgspec.Raw])
            if msgspec.json.decode(each, type=SettingView).source != "default"
        ]
        document = b"[" + b",".join(bytes(each) for each in kept) + b"]"
    if as_json:
        render.write_json(document)
        return
    render.table(
        ("SETTING", "VALUE", "SOURCE", "FLAG"),
        (
            (each.name, _value(each), each.source, each.flag)
            for each in msgspec.json.decode(document, type=list[SettingView])
        ),
    )


# --- overview and top ---------------------------------------------------------------------------


def _overview(seen: Status) -> list[Text]:
    ready = Text("ready", "green") if seen.ready else Text("not ready", "red")
    counts = ", ".join(f"{count:,} {name}" for name, count in seen.by_state.items() if count)
    totals = seen.totals
    lines = [
        Text.assemble("Server    ", ready, f", {render.plural(len(seen.instances), 'instance')}"),
        Text(f"Models    {seen.models:,}" + (f": {counts}" if counts else "")),
        Text(
            f"Requests  {totals.requests:,}: {totals.failed:,} failed, {totals.hits:,} found their "
            f"model ready, {totals.cold:,} waited for a load"
        ),
        Text(
            f"Loads     {totals.loads:,}, {totals.load_failures:,} failed; "
            f"{totals.evictions:,} evictions, {totals.unloads:,} unloads"
        ),
        Text(f"Latency   {_latency(seen.latency)}"),
        Text(f"Cold      {_latency(seen.cold_latency)}"),
    ]
    if len(seen.instances) > 1:
        used = sum(each.used_bytes for each in seen.instances)
        budget = sum(each.budget_bytes for each in seen.instances)
        copies = sum(each.copies for each in seen.instances)
        lines.append(Text(
            f"Memory    {render.size(used)} of {render.size(budget)} in "
            f"{render.plural(copies, 'copy', 'copies')} on all instances"
        ))
    for each in seen.instances if len(seen.instances) == 1 else ():
        thrashing = ", thrashing" if each.thrashing else ""
        copies_here = render.plural(each.copies, "copy", "copies")
        lines.append(
            Text(
                f"Memory    {render.size(each.used_bytes)} of {render.size(each.budget_bytes)} in "
                f"{copies_here} on {each.id} ({each.state}{thrashing})"
            )
        )
    lines += [
        Text(f"{pool.name:<9} {render.size(pool.used_bytes)} of {render.size(pool.budget_bytes)} "
             f"in {render.plural(pool.copies, 'copy', 'copies')} on {each.id}")
        for each in seen.instances for pool in each.pools
    ]
    lines += [Text(f"Problem   {problem}", "yellow") for problem in seen.problems]
    return lines


def _latency(seen: Latency) -> str:
    if seen.p50 is None:
        return "no requests in the last five minutes"
    return (
        f"median {render.duration(seen.p50)}, p90 {render.duration(seen.p90)}, "
        f"p99 {render.duration(seen.p99)}, at most {render.duration(seen.max)}"
    )


def _busiest(seen: Status) -> tuple[Sequence[str], list[Sequence[str | Text]]]:
    """Headings and rows; where the copies are, if there are several instances."""
    if len(seen.instances) <= 1:
        return _BUSY, [_busy(model) for model in seen.busiest]
    return (*_BUSY, "COPIES", "ON"), [
        (*_busy(model), str(len(model.instances)), ", ".join(model.instances))
        for model in seen.busiest
    ]


def _busy(model: BusyModel) -> tuple[str | Text, ...]:
    return (
        model.name,
        render.state(model.state),
        render.number(model.requests_per_s),
        render.duration(model.mean_latency_s),
        render.size(model.size_bytes),
    )


def _live(client: Client, interval_s: float) -> None:
    """Redraw until interrupted; a server that goes away for a while is waited for."""
    shown = _screen(client.status())
    with Live(shown, console=render.out(), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            try:
                shown = _screen(client.status())
                live.update(shown, refresh=True)
            except (Unavailable, DeadlineExceeded) as error:
                live.update(Group(Text(error.message, "red"), shown), refresh=True)


def _screen(seen: Status) -> Group:
    shown = [*_overview(seen), Text()]
    busiest = render.rich_table(*_busiest(seen))
    if len(seen.instances) <= 1:
        return Group(*shown, busiest)
    all_of_them = render.rich_table(instances.OVERVIEW, instances.rows(seen.instances))
    return Group(*shown, all_of_them, Text(), busiest)


# --- events and settings ------------------------------------------------------------------------


def _page(client: Client, after: int, wanted: _Wanted) -> _RawEvents:
    from shoal.client import calls

    document = client.ask_raw(calls.events(after, _EVENTS_A_PAGE, *wanted))
    return msgspec.json.decode(document, type=_RawEvents)


def _last_events(
    client: Client, wanted: _Wanted, limit: int
) -> tuple[list[msgspec.Raw], int, list[str]]:
    """The last `limit` events as they came, where to go on, and what is missing. The server keeps
    few thousands."""
    last: deque[msgspec.Raw] = deque(maxlen=limit)
    after = 0
    problems: dict[str, None] = {}
    while True:
        page = _page(client, after, wanted)
        last.extend(page.events)
        after = page.next
        problems |= dict.fromkeys(page.problems)
        if not page.events:
            return list(last), after, list(problems)


def _print_events(events: Sequence[msgspec.Raw], as_json: bool) -> None:
    for raw in events:
        if as_json:
            render.write_json(bytes(raw))
            continue
        event = msgspec.json.decode(raw, type=EventView)
        stamp = datetime.fromtimestamp(event.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        reason = f" ({event.reason})" if event.reason else ""
        model = f"{event.model}: " if event.model else ""
        where = f"{event.instance}  " if event.instance else ""
        render.out().print(
            Text.assemble((stamp, "dim"), "  ", where, (event.kind, "bold"), f"  {model}",
                          event.message, (reason, "dim"))
        )


def _value(setting: SettingView) -> str:
    value = setting.value
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
