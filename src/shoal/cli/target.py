"""Which server the commands speak to, and the options that many of them share.

Knows no command. The SDK is imported when a client is first made, since it is slow to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from shoal.domain.errors import ShoalError

if TYPE_CHECKING:
    from shoal.client import Client

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
_COMPLETION_TIMEOUT_S: Final = 0.5  # a shell that waits longer seems stuck
_COMPLETION_NAMES: Final = 50


@dataclass(frozen=True, slots=True)
class Target:
    """management: None means port 8082 of the server's host. timeout_s: None means what suits the
    command."""

    server: str = DEFAULT_SERVER
    management: str | None = None
    timeout_s: float | None = None

    def client(self, default_timeout_s: float = 60.0) -> Client:
        """A client whose calls take `timeout_s`, or else `default_timeout_s`, seconds at most.

        People at a terminal want to hear of a wrong address at once: few repetitions.
        """
        from shoal.client import Client, Retry

        return Client(
            self.server,
            management=self.management,
            timeout_s=self.timeout_s or default_timeout_s,
            retry=Retry(attempts=3),
        )


def target_of(context: typer.Context) -> Target:
    """What the global options said."""
    target = context.find_root().obj
    assert isinstance(target, Target)
    return target


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Names of registered models that begin with `incomplete`; none when the server is away."""
    from shoal.client import Client, Retry

    said = context.find_root().params
    try:
        with Client(
            said.get("server") or DEFAULT_SERVER,
            management=said.get("management"),
            timeout_s=_COMPLETION_TIMEOUT_S,
            retry=Retry(attempts=1),
        ) as client:
            names = []
            for model in client.models(contains=incomplete or None, page_size=_COMPLETION_NAMES):
                if model.name.startswith(incomplete):
                    names.append(model.name)
                if len(names) == _COMPLETION_NAMES:
                    break
            return names
    except ShoalError:
        return []


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
