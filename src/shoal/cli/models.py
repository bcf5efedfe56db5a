"""The commands that declare models and steer them: models, register, unregister, load, unload."""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.text import Text

from shoal.cli import bulk, render
from shoal.cli.flags import taking
from shoal.cli.model_fields import from_file, json_or_text, pair, policy
from shoal.cli.model_lists import absolute
from shoal.cli.target import AsJson, MaybeModelName, ModelName, complete_runtime, target_of
from shoal.domain.errors import ShoalError
from shoal.domain.views import ModelView, Outcome, State

if TYPE_CHECKING:
    from shoal.client import Client

# A load may take the server's whole `load.timeout_s` (240 s), after a wait in its queue.
_LOAD_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.3


class Trust(enum.StrEnum):
    CODE = "code"
    DATA = "data"
    ISOLATED = "isolated"


class Protocol(enum.StrEnum):
    V1 = "v1"
    V2 = "v2"
    GRPC_V2 = "grpc-v2"


Version = Annotated[
    int | None,
    typer.Option("--version", help="Only this version; otherwise every one that is served."),
]
Wait = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Return when it is done, or as soon as it has begun."),
]


class _RawPage(msgspec.Struct):
    models: list[msgspec.Raw]
    total: int
    next: str | None = None
    problems: list[str] = []


@dataclass(frozen=True, slots=True)
class ModelsFlags:
    """Of `shoal models`."""

    state: Annotated[
        State | None, typer.Option(help="Only models in this state.", show_default=False)
    ] = None
    contains: Annotated[
        str | None, typer.Option(help="Only models with this text in their names.")
    ] = None
    format: Annotated[
        str | None, typer.Option("--format", help="Only models of this format, such as onnx.")
    ] = None
    label: Annotated[
        str | None, typer.Option(help="Only models with this label: KEY or KEY=VALUE.")
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show this many at most; otherwise all.")
    ] = None
    where: Annotated[
        bool, typer.Option("--where", help="Show which instances decide about them and hold them.")
    ] = False
    as_json: AsJson = False


@taking(ModelsFlags)
def models(context: typer.Context, flags: ModelsFlags) -> None:
    """List the registered models and what state they are in."""
    from shoal.client.calls import ModelQuery
    from shoal.client.calls import models as page_call

    query: ModelQuery | None = ModelQuery(flags.state, flags.contains, flags.format, flags.label)
    filtered = query != ModelQuery()
    raw: list[bytes] = []
    problems: dict[str, None] = {}
    total = 0
    with target_of(context).client() as client:
        while query is not None and (flags.limit is None or len(raw) < flags.limit):
            page = msgspec.json.decode(client.ask_raw(page_call(query)), type=_RawPage)
            raw += [bytes(model) for model in page.models]
            total, problems = page.total, problems | dict.fromkeys(page.problems)
            query = None if page.next is None else dataclasses.replace(query, after=page.next)
    raw = raw[: flags.limit]
    if flags.as_json:
        render.write_json(b"[" + b",".join(raw) + b"]")
        return
    if not raw:
        render.say("no models match" if filtered else "no models yet")
        return
    now = time.time()
    views = (msgspec.json.decode(model, type=ModelView) for model in raw)
    if flags.where:
        render.table(_WHERE, (_places(view) for view in views))
    else:
        render.table(_HEADINGS, (_row(view, now) for view in views))
    render.problems(problems)
    if len(raw) < total:
        render.warn(f"{len(raw)} of {total} models; --limit cut the rest")


@dataclass(frozen=True, slots=True)
class RegisterFlags:
    """Of `shoal register`."""

    name: Annotated[
        str | None,
        typer.Argument(help="Name for requests; letters, digits, '_', '.', '-'.", metavar="NAME"),
    ] = None
    uri: Annotated[
        str | None,
        typer.Argument(
            help="Where the artifact lies, as the server sees it: a path or a URI. A relative path "
            "is taken from the current folder.",
            metavar="URI",
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option("--format", help="sklearn, onnx, …; otherwise recognised from the files."),
    ] = None
    version_policy: Annotated[
        str | None,
        typer.Option(help="Which version folders are served: all, latest:2 or specific:1,3."),
    ] = None
    pin: Annotated[
        bool | None, typer.Option("--pin/--no-pin", help="Never evict it for room.")
    ] = None
    priority: Annotated[
        int | None, typer.Option(help="Models of lower priority leave memory first.")
    ] = None
    idle_ttl: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Unload after so long without a request."),
    ] = None
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label; may be repeated.")
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Handed to the runtime; the value is JSON or else text. May be repeated.",
        ),
    ] = None
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL.YAML",
            help="Take what is not said here from this file; its folder is the default URI.",
        ),
    ] = None
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Register every model that this file lists, as JSON Lines or as a list in JSON or "
            "YAML, each with the fields of model.yaml and a name; - is standard input. Relative "
            "paths are taken from the file's folder. What is registered just so already is left "
            "as it is.",
        ),
    ] = None
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="With --from: register all that can be; otherwise nothing behind a failure is, "
            "and nothing at all when the file itself is wrong.",
        ),
    ] = False
    digest: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256:HEX", help="What the artifact's content must be, as sha256sum tells it."
        ),
    ] = None
    credentials: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The credentials that read it with; otherwise the default ones."
        ),
    ] = None
    trust: Annotated[
        Trust | None,
        typer.Option(
            help="code: loading it may run code that is in it, wherever it lies; isolated: in a "
            "process of its own; data: it must not; otherwise as trust.locations says.",
        ),
    ] = None
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The serving runtime that loads it, or shoal for the server itself; otherwise it "
            "is chosen.",
            autocompletion=complete_runtime,
        ),
    ] = None
    format_version: Annotated[
        str | None,
        typer.Option(help="Version of its format, as serving runtimes say it; otherwise any."),
    ] = None
    protocol: Annotated[
        Protocol | None,
        typer.Option(help="What its runtime must answer to; otherwise any."),
    ] = None
    read: Annotated[
        bool,
        typer.Option(
            "--read/--no-read",
            help="Look at the files now, or not before a load; then format and digest must be "
            "said, and are compared.",
        ),
    ] = True
    create: Annotated[
        bool,
        typer.Option("--create/--replace", help="Refuse when the name is taken, or replace it."),
    ] = False
    wait: Annotated[
        bool, typer.Option("--wait", help="Load it too, and return when it is ready.")
    ] = False
    as_json: AsJson = False


@taking(RegisterFlags)
def register(context: typer.Context, flags: RegisterFlags) -> None:
    """Declare a model, or replace what a name stands for.

    It is loaded when there is room, at the latest when it is first asked for; --wait waits for it.
    """
    from shoal.client import calls
    from shoal.client.declaring import read_spec

    if flags.source is not None:
        _register_from(context, flags, flags.source)
        return
    if flags.keep_going:
        raise typer.BadParameter("--keep-going goes with --from")
    fields = _fields(flags)
    for needed in ("name", "uri"):
        if needed not in fields:
            raise typer.BadParameter(f"say the {needed.upper()}, here or in the file of --file")
    spec = read_spec(fields)
    with target_of(context).client(_LOAD_TIMEOUT_S if flags.wait else 60.0) as client:
        document = client.ask_raw(calls.register(spec, create=flags.create, read=flags.read))
        if flags.wait:
            with _watched(client, spec.name):
                client.load(spec.name)
            document = client.ask_raw(calls.model(spec.name))
    if flags.as_json:
        render.write_json(document)
        return
    view = msgspec.json.decode(document, type=ModelView)
    version = f", version {view.default_version}" if view.default_version is not None else ""
    render.say(f"registered {view.name}{version}: {view.state}")
    if view.problem:
        render.warn(f"problem: {view.problem}")


def _register_from(context: typer.Context, flags: RegisterFlags, source: Path) -> None:
    allowed = {"source", "keep_going", "read", "as_json"}
    for field in dataclasses.fields(flags):
        if field.name not in allowed and getattr(flags, field.name) != field.default:
            raise typer.BadParameter(
                "--from takes all of a model from the file; say there what is said here beside "
                "--keep-going, --no-read and --json"
            )
    with target_of(context).client() as client:
        wish = bulk.Wish(source, flags.keep_going, flags.as_json)
        bulk.register_from(client, wish, read=flags.read)


def unregister(
    context: typer.Context,
    name: MaybeModelName = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Unregister every model that this file names: one of 'shoal register --from', or "
            "a name a line; - is standard input.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take a model's declaration back. Its files stay where they are."""
    if (name is None) == (source is None):
        raise typer.BadParameter("say the MODEL, or --from a file of them")
    if source is not None:
        with target_of(context).client() as client:
            bulk.unregister_from(client, bulk.Wish(source, as_json=as_json))
        return
    assert name is not None
    with target_of(context).client() as client:
        client.unregister(name)
    if as_json:
        render.write_json(msgspec.json.encode({"name": name}))
    else:
        render.say(f"unregistered {name}")


def load(
    context: typer.Context,
    name: ModelName,
    version: Version = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Load a model into memory now, and take it back into service if it was taken out."""
    from shoal.client import calls

    with target_of(context).client(_LOAD_TIMEOUT_S) as client, _watched(client, name, wait):
        document = client.ask_raw(calls.load(name, version, wait=wait))
    _tell(document, as_json)


def unload(
    context: typer.Context,
    name: ModelName,
    version: Version = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Take a model out of memory and out of service, until it is loaded or declared anew."""
    from shoal.client import calls

    with target_of(context).client(_LOAD_TIMEOUT_S) as client, _watched(client, name, wait):
        document = client.ask_raw(calls.unload(name, version, wait=wait))
    _tell(document, as_json)


# --- what they show -----------------------------------------------------------------------------

_HEADINGS: Final = ("NAME", "STATE", "VERSION", "FORMAT", "MEMORY", "REQUESTS", "LAST USED", "NOTE")


_WHERE: Final = ("NAME", "STATE", "HOME", "COPIES", "ON")


def _places(view: ModelView) -> tuple[str | Text, ...]:
    """Of --where."""
    on = []
    for copy in view.where:
        is_ready = copy.state is State.READY and not copy.leaving
        said = copy.device if is_ready else "leaving" if copy.leaving else copy.state
        on.append(f"{copy.instance} ({said})" if said else copy.instance)
    ready = sum(copy.state is State.READY and not copy.leaving for copy in view.where)
    return view.name, render.state(view.state), view.home or "-", str(ready), ", ".join(on) or "-"


def _row(view: ModelView, now: float) -> tuple[str | Text, ...]:
    default = next((v for v in view.versions if v.version == view.default_version), None)
    used = [v.last_used for v in view.versions if v.last_used is not None]
    loaded = [v for v in view.versions if v.state is State.READY]
    sizes = [v.size_bytes for v in loaded if v.size_bytes is not None]
    return (
        view.name,
        render.state(view.state),
        "-" if view.default_version is None else str(view.default_version),
        default.format if default else "-",
        render.size(sum(sizes) if sizes else None),
        render.number(sum(v.requests for v in view.versions)),
        render.ago(max(used, default=None), now),
        view.problem or (default.error if default else None) or "",
    )


def _tell(document: bytes, as_json: bool) -> None:
    if as_json:
        render.write_json(document)
        return
    outcome = msgspec.json.decode(document, type=Outcome)
    version = "" if outcome.version is None else f", version {outcome.version}"
    render.say(
        f"{outcome.name}{version}: {outcome.state}, after {render.duration(outcome.took_s)}"
    )


def _state(view: ModelView) -> str:
    """In words, with how far a download is."""
    for copy in view.where:
        if copy.downloaded_bytes is not None:
            of = f" of {render.size(copy.download_bytes)}" if copy.download_bytes else ""
            return f"downloading, {render.size(copy.downloaded_bytes)}{of}"
    return str(view.state)


@contextmanager
def _watched(client: Client, name: str, wait: bool = True) -> Iterator[None]:
    """On a terminal, show the model's state while something is waited for."""
    with render.waiting(f"{name}: asking the server") as progress:
        if progress is None or not wait:
            yield
            return
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_POLL_S):
                try:
                    progress.update(f"{name}: {_state(client.model(name))}")
                except ShoalError as error:
                    progress.update(f"{name}: {error.message}")

        watcher = threading.Thread(target=watch, name="watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join(timeout=1.0)


# --- what they read -----------------------------------------------------------------------------


def _fields(flags: RegisterFlags) -> dict[str, object]:
    """Those of the specification that were said, by flags or in the file; flags win."""
    options = dict(pair("--option", text) for text in flags.option or ())
    said: dict[str, object] = {
        "name": flags.name,
        "uri": None if flags.uri is None else absolute(flags.uri),
        "format": flags.format,
        "digest": flags.digest,
        "credentials": flags.credentials,
        "trust": flags.trust,
        "runtime": flags.runtime,
        "format_version": flags.format_version,
        "protocol": flags.protocol,
        "version_policy": None if flags.version_policy is None else policy(flags.version_policy),
        "pin": flags.pin,
        "priority": flags.priority,
        "idle_ttl_s": flags.idle_ttl,
        "labels": dict(pair("--label", text) for text in flags.label or ()) or None,
        "options": {key: json_or_text(text) for key, text in options.items()} or None,
    }
    written = {} if flags.file is None else from_file(flags.file)
    return written | {key: value for key, value in said.items() if value is not None}
