"""Which server the commands speak to, how they ask it, and the options that many of them share.

Knows no command. The SDK is imported when a client is first made, since it is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias, TypeVar

import msgspec
import typer

from shoal.cli import render
from shoal.domain.errors import ShoalError

if TYPE_CHECKING:
    from shoal.client import Client
    from shoal.client.calls import Call

T = TypeVar("T")

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
_COMPLETION_TIMEOUT_S: Final = 0.5  # a shell that waits longer seems stuck
_COMPLETION_NAMES: Final = 50


@dataclass(frozen=True, slots=True)
class Target:
    """server, management: an address, or several with commas between. management: None means port
    8082 of the server's host. timeout_s: None means what suits the command."""

    server: str = DEFAULT_SERVER
    management: str | None = None
    timeout_s: float | None = None

    def client(self, default_timeout_s: float = 60.0) -> Client:
        """A client whose calls take `timeout_s`, or else `default_timeout_s`, seconds at most.

        People at a terminal want to hear of a wrong address at once: few repetitions.
        """
        from shoal.client import Client, Retry

        return Client(
            addresses_of(self.server),
            management=None if self.management is None else addresses_of(self.management),
            timeout_s=self.timeout_s or default_timeout_s,
            retry=Retry(attempts=3),
        )


def addresses_of(text: str) -> list[str]:
    """The addresses that an option names, with commas between."""
    return [part for part in map(str.strip, text.split(",")) if part] or [text]


def target_of(context: typer.Context) -> Target:
    """What the global options said."""
    target = context.find_root().obj
    assert isinstance(target, Target)
    return target


def ask(context: typer.Context, call: Call[T], kind: type[T], *, as_json: bool) -> T | None:
    """What the server answers; None: it has been printed, since JSON was asked for."""
    with target_of(context).client() as client:
        document = client.ask_raw(call)
    if as_json:
        render.write_json(document)
        return None
    return msgspec.json.decode(document, type=kind)


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Names of registered models that begin with `incomplete`; none when the server is away."""
    try:
        with _completing(context) as client:
            names = []
            for model in client.models(contains=incomplete or None, page_size=_COMPLETION_NAMES):
                if model.name.startswith(incomplete):
                    names.append(model.name)
                if len(names) == _COMPLETION_NAMES:
                    break
            return names
    except ShoalError:
        return []


def complete_instance(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of instances that begin with `incomplete`; none when the server is away."""
    return _beginning(context, incomplete, lambda client: [
        each.id for each in client.instances()])


def complete_credentials(context: typer.Context, incomplete: str) -> list[str]:
    """Names of credentials that begin with `incomplete`; none when the server is away."""
    return _beginning(context, incomplete, lambda client: list(dict.fromkeys(
        each.name for each in client.list_credentials())))


def complete_runtime(context: typer.Context, incomplete: str) -> list[str]:
    """Names of serving runtimes that begin with `incomplete`; none when the server is away."""
    return _beginning(context, incomplete, lambda client: [
        each.name for each in client.list_runtimes()])


def _beginning(
    context: typer.Context, incomplete: str, names: Callable[[Client], list[str]]
) -> list[str]:
    try:
        with _completing(context) as client:
            return [name for name in names(client) if name.startswith(incomplete)]
    except ShoalError:
        return []


def _completing(context: typer.Context) -> Client:
    from shoal.client import Client, Retry

    said = context.find_root().params
    management = said.get("management")
    return Client(
        addresses_of(said.get("server") or DEFAULT_SERVER),
        management=None if management is None else addresses_of(management),
        timeout_s=_COMPLETION_TIMEOUT_S,
        retry=Retry(attempts=1),
    )


ModelName: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="Name of the model.",
        metavar="MODEL",
        autocompletion=complete_model,
        show_default=False,
    ),
]
MaybeModelName: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        help="Name of the model.",
        metavar="MODEL",
        autocompletion=complete_model,
        show_default=False,
    ),
]
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the answer of the API as one JSON document.")
]
