"""The commands about serving processes: instances, drain; and how they look in other commands."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
import typer
from rich.text import Text

from shoal.cli import render
from shoal.cli.target import AsJson, ask, complete_instance, target_of
from shoal.domain.views import Drained, InstanceView

_BAR: Final = 12  # characters
_STYLES: Final = {"ready": "green", "starting": "cyan", "draining": "yellow"}

OVERVIEW: Final = (
    "INSTANCE", "STATE", "ZONE", "LOAD", "PRESSURE", "MEMORY", "", "COPIES", "LOADING", "HOMES",
    "NOTE",
)  # fmt: skip

InstanceName: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="Id of the instance, as 'shoal instances' lists it.",
        metavar="INSTANCE",
        autocompletion=complete_instance,
        show_default=False,
    ),
]


def instances(context: typer.Context, as_json: AsJson = False) -> None:
    """List the serving processes and how full they are."""
    from shoal.client import calls

    views = ask(context, calls.instances(), list[InstanceView], as_json=as_json)
    if views is None:
        return
    now = time.time()
    render.table(
        ("ID", "STATE", "ZONE", "ADDRESS", "GRPC", "MANAGEMENT", "PID", "STARTED", "MEMORY",
         "BUDGET", "COPIES", "LOADING", "QUEUED", "WAITING", "VERSION", "NOTE"),
        (
            (
                each.id,
                state(each),
                each.zone or "-",
                each.http_address,
                each.grpc_address,
                each.management_address,
                str(each.pid),
                render.ago(each.started_at, now),
                render.size(each.used_bytes),
                render.size(each.budget_bytes),
                str(each.copies),
                str(each.loading),
                str(each.queued),
                str(each.waiting_requests),
                each.version,
                note(each, now),
            )
            for each in views
        ),
    )


def drain(
    context: typer.Context,
    instance: InstanceName,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let it take its share of the models again.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="End it afterwards, as SIGTERM does.")
    ] = False,
    wait_s: Annotated[
        int,
        typer.Option(
            "--timeout", min=0, max=3600, metavar="SECONDS",
            help="Wait so long for the others to load what it holds.",
        ),
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Have an instance hand over its models to the others.

    It takes no more loads and counts as unready, but goes on answering what comes to it, until it
    is ended or told to come back.
    """
    from shoal.client import calls

    if undo and stop:
        raise typer.BadParameter("--undo and --stop contradict each other")
    call = calls.drain(instance, timeout_s=wait_s, undo=undo, stop=stop)
    with target_of(context).client(wait_s + 10.0) as client, render.waiting(
        f"{instance}: the others take over"
    ):
        document = client.ask_raw(call)
    if as_json:
        render.write_json(document)
        return
    drained = msgspec.json.decode(document, type=Drained)
    ending = ", and ends now" if drained.ending else ""
    render.say(f"{drained.id}: {drained.state}, after {render.duration(drained.took_s)}{ending}")
    if drained.left:
        copies = "copy" if drained.left == 1 else "copies"
        render.warn(f"{drained.left} {copies} used lately that no other instance has loaded: what "
                    "they answered will be loaded when it is asked for again")


# --- in other commands ----------------------------------------------------------------------------


def rows(views: Iterable[InstanceView]) -> list[Sequence[str | Text]]:
    """Under the headings OVERVIEW."""
    now = time.time()
    return [
        (
            each.id,
            state(each),
            each.zone or "-",
            f"{each.load:.0%}",
            f"{each.pressure:.2f}",
            f"{render.size(each.used_bytes)} of {render.size(each.budget_bytes)}",
            bar(each.used_bytes + each.reserved_bytes, each.budget_bytes),
            str(each.copies),
            str(each.loading + each.queued),
            str(each.homes),
            note(each, now),
        )
        for each in views
    ]


def state(each: InstanceView) -> Text:
    if each.unreachable_since is not None:
        return Text("unreachable", "red")
    return Text(each.state, _STYLES.get(each.state, ""))


def note(each: InstanceView, now: float) -> str:
    """What to look at, if anything."""
    said = []
    if each.unreachable_since is not None:
        said.append(f"not reached since {render.ago(each.unreachable_since, now)}")
    if each.problem is not None:
        said.append(each.problem)
    if each.thrashing:
        said.append("thrashing")
    return "; ".join(said)


def bar(used: int, whole: int) -> Text:
    """How full something is, as a bar."""
    share = min(used / whole, 1.0) if whole else 0.0
    full = round(share * _BAR)
    style = "red" if share > 0.95 else "green"
    return Text.assemble(("█" * full, style), ("░" * (_BAR - full), "dim"))
