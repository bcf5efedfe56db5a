"""The command that tells why a model is (not) loaded."""

from __future__ import annotations

import time

import msgspec
import typer

from shoal.cli import render
from shoal.cli.target import AsJson, ModelName, target_of
from shoal.domain.views import State, Story


def explain(context: typer.Context, name: ModelName, as_json: AsJson = False) -> None:
    """Tell a model's story: why it is loaded or not, what failed, what happened last."""
    from shoal.client import calls

    with target_of(context).client() as client:
        document = client.ask_raw(calls.explain(name))
    if as_json:
        render.write_json(document)
        return
    _tell(msgspec.json.decode(document, type=Story), time.time())


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
            ("VERSION", "STATE", "FORMAT", "MEMORY", "ON DISK", "REQUESTS", "LAST USED"),
            (
                (
                    str(version.version),
                    render.state(version.state),
                    version.format,
                    render.size(version.size_bytes if version.state is State.READY else None),
                    render.size(version.files_bytes),
                    render.number(version.requests),
                    render.ago(version.last_used, now),
                )
                for version in model.versions
            ),
        )
    if story.events:
        render.say("\nLast events:", "bold")
        for event in story.events:
            reason = f" ({event.reason})" if event.reason else ""
            render.say(f"  {render.ago(event.time, now)}: {event.message}{reason}")

