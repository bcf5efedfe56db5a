"""The repository extension of the Open Inference Protocol over gRPC, as its caller keeps to it.

Source: Triton, "extension_model_repository"; MLServer has the same messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, cast

from shoal.codecs import protobuf
from shoal.domain.errors import InvalidRequest
from shoal.external.interface import QUICK_S, CallFailed, Line, Reported, Told, ToLoad
from shoal.external.names import is_ours

SERVICE: Final = "/inference.GRPCInferenceService/"
_READY: Final = "READY"


class Layout(Protocol):
    """Makes a server's model repository out of artifacts, one folder a model."""

    def add(self, model: ToLoad) -> None:
        """Raises InvalidArtifact for what the server could not load, InvalidSpecification for
        options that it does not take."""

    def remove(self, model: str) -> None:
        """What is not there may be removed, too."""


class _Ready(Protocol):
    ready: bool


class _Indexed(Protocol):
    name: str
    state: str


class _Index(Protocol):
    models: Sequence[_Indexed]


class Repository:
    """See `Interface`. layout: None: the server has what it serves, under the models' own names."""

    def __init__(self, line: Line, layout: Layout | None) -> None:
        self._line = line
        self._layout = layout

    def status(self) -> Reported | None:
        try:
            data = self._line.ask(f"{SERVICE}ServerReady", b"", QUICK_S)
        except CallFailed as failed:
            if failed.code != "UNIMPLEMENTED":
                raise
        else:
            if not cast(_Ready, _read("ServerReadyResponse", data)).ready:
                return None
        self._unload_what_was()
        return Reported()

    def predict_bytes(self, model: ToLoad) -> int | None:
        del model
        return None

    def load(self, model: ToLoad, timeout_s: float) -> Told:
        if self._layout is not None:
            self._layout.add(model)
        self._line.ask_revocably(
            f"{SERVICE}RepositoryModelLoad", _named("Load", model.id), timeout_s)
        return Told()

    def unload(self, model: str, timeout_s: float) -> None:
        try:
            self._line.ask(
                f"{SERVICE}RepositoryModelUnload", _named("Unload", model), timeout_s)
        except CallFailed as failed:
            if failed.code != "NOT_FOUND":
                raise
        finally:
            if self._layout is not None:
                self._layout.remove(model)

    def _unload_what_was(self) -> None:
        """Models of an earlier life of this instance, where only it can have put them there."""
        if self._layout is None:
            return
        try:
            data = self._line.ask(f"{SERVICE}RepositoryIndex", b"", QUICK_S)
        except CallFailed as failed:
            if failed.code == "UNIMPLEMENTED":
                return
            raise
        for model in cast(_Index, _read("RepositoryIndexResponse", data)).models:
            if is_ours(model.name):
                self.unload(model.name, QUICK_S)


def _named(what: str, model: str) -> bytes:
    return protobuf.write(f"inference.RepositoryModel{what}Request", {"model_name": model})


def _read(name: str, data: bytes) -> object:
    try:
        return protobuf.parse(f"inference.{name}", data)
    except InvalidRequest:
        raise CallFailed("INTERNAL", f"its answer is no {name}") from None
