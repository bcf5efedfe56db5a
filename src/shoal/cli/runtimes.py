"""The commands about serving runtimes: list, show, apply, remove, enable, disable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import typer

from shoal.cli import render
from shoal.cli.files import read_small, shown
from shoal.cli.target import AsJson, ask, complete_runtime, target_of
from shoal.domain.errors import InvalidSpecification
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.domain.views import RuntimeDeleted, RuntimeList, RuntimeView

app = typer.Typer(
    help="Serving runtimes: model servers that load what the instances do not load themselves.",
    no_args_is_help=True,
)

Name: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="Name of the serving runtime.",
        metavar="NAME",
        autocompletion=complete_runtime,
        show_default=False,
    ),
]


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List what loads models: the instances themselves (shoal), and the declared servers."""
    from shoal.client import calls

    found = ask(context, calls.runtimes(), RuntimeList, as_json=as_json)
    if found is None:
        return
    render.table(
        ("NAME", "STATE", "FORMATS", "PROTOCOLS", "HOW"),
        (
            (each.name, "disabled" if each.disabled else "enabled",
             ", ".join(map(_format, each.formats)) or "-", ", ".join(each.protocols), _how(each))
            for each in found.runtimes
        ),
    )
    render.problems(found.problems)


@app.command("show")
def show(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show a serving runtime: what it loads, and how it is started or reached."""
    from shoal.client import calls

    view = ask(context, calls.runtime(name), RuntimeView, as_json=as_json)
    if view is None:
        return
    state = "disabled" if view.disabled else "enabled"
    since = "" if view.created_at is None else (
        f", declared {render.ago(view.created_at, time.time())}")
    render.say(f"{view.name} is {state}{since}")
    render.table(
        ("FORMAT", "VERSION", "CHOSEN BY ITSELF", "PRIORITY"),
        (
            (each.name, each.version or "any", "yes" if each.auto_select else "no",
             str(each.priority))
            for each in view.formats
        ),
    )
    render.say("")
    render.table(("FIELD", "VALUE"), _fields(view))


@app.command("apply")
def apply(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help="YAML or JSON with the fields of docs/runtimes.md, or KServe's ServingRuntime or "
            "ClusterServingRuntime; several with --- between; - is standard input.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Declare serving runtimes for all instances, or replace those of their names.

    Nothing is declared when any of them is wrong. Models that waited for one are served then.
    """
    from shoal.client import calls
    from shoal.storage.runtime_files import read_runtimes

    found = read_runtimes(_text(file), shown(file))
    documents = []
    with target_of(context).client() as client:
        for each in found:
            documents.append(client.ask_raw(calls.declare_runtime(each.serving)))
            for note in each.notes:
                render.warn(f"{each.serving.name}: {note}")
            if not as_json:
                view = msgspec.json.decode(documents[-1], type=RuntimeView)
                disabled = " (disabled)" if view.disabled else ""
                render.say(f"declared {view.name}{disabled}: loads "
                           f"{', '.join(map(_format, view.formats))}")
    if as_json:
        render.write_json(b"[" + b",".join(documents) + b"]")


@app.command("remove")
def remove(
    context: typer.Context,
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also while models use it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a serving runtime; refused while models use it, unless --force is said."""
    from shoal.client import calls

    gone = ask(context, calls.delete_runtime(name, force=force), RuntimeDeleted, as_json=as_json)
    if gone is None:
        return
    render.say(f"removed {gone.name}")
    if gone.models:
        used = render.plural(gone.models, "model used", "models used")
        render.warn(f"{used} it: {render.first_of(gone.models, gone.first)}; another runtime that "
                    "takes them serves them, else they cannot be loaded")


@app.command("enable")
def enable(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Let models be loaded into a serving runtime again."""
    _switch(context, name, enabled=True, as_json=as_json)


@app.command("disable")
def disable(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Let no more models be loaded into a serving runtime. What is loaded stays."""
    _switch(context, name, enabled=False, as_json=as_json)


def _switch(context: typer.Context, name: str, *, enabled: bool, as_json: bool) -> None:
    from shoal.client import calls

    view = ask(context, calls.enable_runtime(name, enabled=enabled), RuntimeView, as_json=as_json)
    if view is None:
        return
    render.say(f"{view.name} is {'disabled' if view.disabled else 'enabled'}")


# --- what they show and read --------------------------------------------------------------------


def _format(each: SupportedFormat) -> str:
    """`onnx`, `tensorrt:8`, `pytorch (by name)` for one that is not chosen by itself."""
    return str(each) if each.auto_select else f"{each} (by name)"


def _how(view: RuntimeView) -> str:
    serving = view.declaration
    if serving is None:
        return "in the instances"
    return f"at {serving.address}" if serving.address else f"started: {serving.command[0]}"


def _fields(view: RuntimeView) -> list[tuple[str, str]]:
    """What the declaration says, beside what the table of formats does."""
    if view.declaration is None:
        return [("protocols", ", ".join(view.protocols))]
    said = msgspec.to_builtins(view.declaration)
    elsewhere = ("name", "formats", "protocols", "interface", "disabled")
    return [
        ("protocols", ", ".join(view.protocols)), ("interface", view.declaration.interface),
        *((name, _shown(said[name])) for name in ServingRuntime.__struct_fields__
          if name in said and name not in elsewhere),
    ]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def _text(file: Path) -> str:
    try:
        return read_small(file, "declaration").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSpecification(
            f"{shown(file)} is not UTF-8 at byte {error.start}; save it with that encoding"
        ) from None
