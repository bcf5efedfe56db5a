"""The command that tells why a model is (not) loaded."""

from __future__ import annotations

import time

import typer
from rich.text import Text

from shoal.cli import render
from shoal.cli.target import AsJson, ModelName, ask
from shoal.domain.views import ModelView, State, Story


def explain(context: typer.Context, name: ModelName, as_json: AsJson = False) -> None:
    """Tell a model's story: why it is loaded or not, what failed, what happened last."""
    from shoal.client import calls

    story = ask(context, calls.explain(name), Story, as_json=as_json)
    if story is not None:
        _tell(story, time.time())


def _tell(story: Story, now: float) -> None:
    model = story.model
    title = render.state(model.state)
    render.out().print(f"[bold]{model.name}[/bold] is", title, end="")
    render.say(f", registered {render.ago(model.registered_at, now)} from {model.uri}")
    for sentence in story.summary:
        render.say(f"  {sentence}")
    if model.versions:
        render.say("")
        render.table(
            ("VERSION", "STATE", "FORMAT", "RUNTIME", "MEMORY", "ON DISK", "REQUESTS", "LAST USED"),
            (
                (
                    str(version.version),
                    render.state(version.state),
                    version.format,
                    version.runtime,
                    render.size(version.size_bytes if version.state is State.READY else None),
                    render.size(version.files_bytes),
                    render.number(version.requests),
                    render.ago(version.last_used, now),
                )
                for version in model.versions
            ),
        )
    if model.where and any(event.instance for event in story.events):  # there are several
        render.say("")
        _tell_copies(model, now)
    render.problems(story.problems)
    if story.events:
        render.say("\nLast events:", "bold")
        for event in story.events:
            reason = f" ({event.reason})" if event.reason else ""
            where = f" on {event.instance}" if event.instance else ""
            render.say(f"  {render.ago(event.time, now)}{where}: {event.message}{reason}")


def _tell_copies(model: ModelView, now: float) -> None:
    render.table(
        ("ON", "VERSION", "STATE", "MEMORY", "SINCE", "REQUESTS", "REQUESTS/S", "REASON"),
        (
            (
                copy.instance,
                str(copy.version),
                Text("leaving", "dim") if copy.leaving else render.state(copy.state),
                render.size(copy.size_bytes),
                render.ago(copy.since, now),
                render.number(copy.requests),
                render.number(copy.requests_per_s),
                copy.reason or "-",
            )
            for copy in model.where
        ),
    )
