"""The commands that show the running system: status, top, events, instances, settings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from shoal.cli import render
from shoal.cli.target import AsJson, target_of
from shoal.domain.errors import DeadlineExceeded, Unavailable
from shoal.domain.views import (
    BusyModel,
    EventView,
    InstanceView,
    Latency,
    SettingView,
    Status,
)

if TYPE_CHECKING:
    from shoal.client import Client

_FOLLOW_S: Final = 1.0
_EVENTS_A_PAGE: Final = 500
_BUSY: Final = ("MODEL", "STATE", "REQUESTS/S", "MEAN LATENCY", "MEMORY")


class _RawEvents(msgspec.Struct):
    events: list[msgspec.Raw]
    next: int


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show everything at a glance: models, requests, latency, memory, problems."""
    from shoal.client import calls

    with target_of(context).client() as client:
        document = client.ask_raw(calls.status())
    if as_json:
        render.write_json(document)
        return
    seen = msgspec.json.decode(document, type=Status)
    for line in _overview(seen):
        render.out().print(line)


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
    """Watch the busiest models. Without a terminal, print them once."""
    from shoal.client import calls

    with target_of(context).client() as client:
        console = render.out()
        if as_json:
            render.write_json(client.ask_raw(calls.status()))
        elif once or not console.is_terminal:
            render.table(_BUSY, (_busy(model) for model in client.status().busiest))
        else:
            try:
                _live(client, interval)
            except KeyboardInterrupt:
                pass  # how one leaves


def events(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Only events of this model.")] = None,
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
        last, after = _last_events(client, model, limit)
        if as_json and not follow:
            render.write_json(b"[" + b",".join(last) + b"]")
            return
        _print_events(last, as_json)
        while follow:
            page = _page(client, after, model)
            _print_events(page.events, as_json)
            after = page.next
            if not page.events:
                time.sleep(_FOLLOW_S)


def instances(context: typer.Context, as_json: AsJson = False) -> None:
    """List the serving processes and how full they are."""
    from shoal.client import calls

    with target_of(context).client() as client:
        document = client.ask_raw(calls.instances())
    if as_json:
        render.write_json(document)
        return
    now = time.time()
    render.table(
        ("ID", "STATE", "ADDRESS", "GRPC", "PID", "STARTED", "MEMORY", "BUDGET", "COPIES",
         "LOADING", "QUEUED", "WAITING", "VERSION"),
        (
            (
                each.id,
                each.state,
                each.http_address,
                each.grpc_address,
                str(each.pid),
                render.ago(each.started_at, now),
                render.size(each.used_bytes),
                render.size(each.budget_bytes),
                str(each.copies),
                str(each.loading),
                str(each.queued),
                str(each.waiting_requests),
                each.version,
            )
            for each in msgspec.json.decode(document, type=list[InstanceView])
        ),
    )


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
        Text.assemble("Server    ", ready, f", {_plural(len(seen.instances), 'instance')}"),
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
    for each in seen.instances:
        thrashing = ", thrashing" if each.thrashing else ""
        lines.append(
            Text(
                f"Memory    {render.size(each.used_bytes)} of {render.size(each.budget_bytes)} in "
                f"{_plural(each.copies, 'copy', 'copies')} on {each.id} ({each.state}{thrashing})"
            )
        )
    lines += [Text(f"Problem   {problem}", "yellow") for problem in seen.problems]
    return lines


def _latency(seen: Latency) -> str:
    if seen.p50 is None:
        return "no requests in the last five minutes"
    return (
        f"median {render.duration(seen.p50)}, p90 {render.duration(seen.p90)}, "
        f"p99 {render.duration(seen.p99)}, at most {render.duration(seen.max)}"
    )


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _busy(model: BusyModel) -> Sequence[str | Text]:
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
    busiest = render.rich_table(_BUSY, (_busy(model) for model in seen.busiest))
    return Group(*_overview(seen), Text(), busiest)


# --- events and settings ------------------------------------------------------------------------


def _page(client: Client, after: int, model: str | None) -> _RawEvents:
    from shoal.client import calls

    document = client.ask_raw(calls.events(after, _EVENTS_A_PAGE, model))
    return msgspec.json.decode(document, type=_RawEvents)


def _last_events(client: Client, model: str | None, limit: int) -> tuple[list[msgspec.Raw], int]:
    """The last `limit` events as they came, and where to go on. The server keeps few thousands."""
    last: deque[msgspec.Raw] = deque(maxlen=limit)
    after = 0
    while True:
        page = _page(client, after, model)
        last.extend(page.events)
        after = page.next
        if not page.events:
            return list(last), after


def _print_events(events: Sequence[msgspec.Raw], as_json: bool) -> None:
    for raw in events:
        if as_json:
            render.write_json(bytes(raw))
            continue
        event = msgspec.json.decode(raw, type=EventView)
        stamp = datetime.fromtimestamp(event.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        reason = f" ({event.reason})" if event.reason else ""
        model = f"{event.model}: " if event.model else ""
        render.out().print(
            Text.assemble((stamp, "dim"), "  ", (event.kind, "bold"), f"  {model}", event.message,
                          (reason, "dim"))
        )


def _value(setting: SettingView) -> str:
    value = setting.value
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
