"""What there is to say to a model server, whichever interface it has. Must not know connections,
processes, nor when anything is said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from shoal.domain.model import JsonValue
from shoal.ports import Artifact

QUICK_S: Final = 5.0  # for what costs a server nothing

NOT_TRIED: Final = ("FAILED_PRECONDITION", "INVALID_ARGUMENT")
"""Status codes of a load of which nothing remains."""
GIVEN_UP: Final = ("CANCELLED", "DEADLINE_EXCEEDED")


class CallFailed(Exception):
    """code: gRPC's, such as `NOT_FOUND`. details: what the server said, in one line."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}" if details else code)
        self.code = code
        self.details = details or code


class ServerFailed(Exception):
    """A server cannot be used. `why`: a sentence's end that follows its name."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Line(Protocol):
    """See `connection.Connection`."""

    def ask(self, path: str, request: bytes, timeout_s: float) -> bytes: ...
    def ask_revocably(self, path: str, request: bytes, timeout_s: float) -> bytes: ...
    def revoke(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ToLoad:
    """id: as the server shall call it. format_version: as the server's declaration says. stamp: of
    the files when they were checked; see `storage.files.stamp`."""

    id: str
    artifact: Artifact
    files_bytes: int
    format_version: str | None
    stamp: object = None

    @property
    def format(self) -> str:
        return self.artifact.format

    @property
    def path(self) -> Path:
        return self.artifact.path

    @property
    def options(self) -> dict[str, JsonValue]:
        return dict(self.artifact.options)


@dataclass(frozen=True, slots=True)
class Reported:
    """What a server says of itself once it is ready; None: it does not. max_loading: models at
    once. default_bytes: of a model of which it does not know the size."""

    capacity_bytes: int | None = None
    max_loading: int | None = None
    load_timeout_s: float | None = None
    default_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a server says of a model that it loaded; None: it does not."""

    size_bytes: int | None = None
    max_concurrency: int | None = None


class Interface(Protocol):
    """How models come into a server. Every call may raise CallFailed."""

    def status(self) -> Reported | None:
        """None: not ready yet. After an answer nothing is loaded of what was before. Raises
        ServerFailed when it never will be."""

    def predict_bytes(self, model: ToLoad) -> int | None:
        """What it would take, if the server can tell."""

    def load(self, model: ToLoad, timeout_s: float) -> Told:
        """Comes back once it can be asked. Raises ArtifactError or InvalidSpecification for what
        the server could not do anything with."""

    def unload(self, model: str, timeout_s: float) -> None:
        """What is not loaded may be unloaded, too."""
