"""One life of a model server, from ready to its end: models into it and out of it, requests, and
whether it still answers. Must not know who wants what loaded.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from shoal.codecs import protobuf
from shoal.domain.errors import (
    ArtifactError,
    InvalidArtifact,
    InvalidRequest,
    LoadFailed,
    NoRoom,
    ShoalError,
    Unavailable,
)
from shoal.domain.signature import DATATYPES, TensorSpec
from shoal.external.interface import (
    GIVEN_UP,
    NOT_TRIED,
    QUICK_S,
    CallFailed,
    Interface,
    Line,
    Reported,
    ToLoad,
)
from shoal.external.repository import SERVICE
from shoal.observability.logs import get_logger

_LIVE_S: Final = 2.0
_UNLOAD_S: Final = 30.0
_FILES_FACTOR: Final = 1.25  # of a copy to its files, where nobody knows better; ModelMesh's own

log = get_logger("shoal.external")


class Running(Protocol):
    """See `process.ServerProcess`."""

    started_at: float

    @property
    def has_ended(self) -> bool: ...
    @property
    def how(self) -> str: ...
    @property
    def said(self) -> str: ...
    def wait(self, timeout_s: float = ...) -> bool: ...
    def memory_bytes(self) -> int: ...
    def kill(self, why: str) -> None: ...
    def stop(self, grace_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """hang_s: without an answer for so long it counts as hanging. call_timeout_s: 0: no bound."""

    max_loading: int
    load_timeout_s: float
    call_timeout_s: float
    hang_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """A model in a server. inputs, outputs: as the server says; empty: it does not."""

    size_bytes: int
    max_concurrency: int | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class _Tensor(Protocol):
    name: str
    datatype: str
    shape: Sequence[int]


class _Metadata(Protocol):
    inputs: Sequence[_Tensor]
    outputs: Sequence[_Tensor]


class _Ready(Protocol):
    ready: bool


@dataclass(frozen=True, slots=True)
class Server:
    """What a session consists of. process: None: Shoal did not start it. end: called when it has
    ended, perhaps again."""

    name: str
    interface: Interface
    data: Line
    control: Line
    reported: Reported
    process: Running | None
    end: Callable[[], None] = lambda: None


class Session:
    """Ready when it is made. For any thread. began_at: by `time.monotonic`."""

    def __init__(self, server: Server, limits: Limits) -> None:
        self.name = server.name
        self.capacity_bytes = server.reported.capacity_bytes
        self.began_at = server.process.started_at if server.process else time.monotonic()
        self._interface = server.interface
        self._data, self._control = server.data, server.control
        self._process = server.process
        self._end = server.end
        self._default_bytes = server.reported.default_bytes
        self._limits = limits
        self._places = threading.BoundedSemaphore(max(limits.max_loading, 1))
        self._loading = 0  # loads under way
        self._loads = 0  # ever begun
        self._formats: set[str] = set()  # of which something was loaded
        self._turn = threading.Condition()
        self._answered_at = time.monotonic()
        self._lost = ""
        self._is_closing = False
        self._bytes = server.process.memory_bytes() if server.process else 0

    # --- its end --------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        return bool(self._lost) or (self._process is not None and self._process.has_ended)

    @property
    def how(self) -> str:
        """How it ended, in words that follow its name."""
        if self._process is not None and self._process.has_ended:
            return self._process.how
        return self._lost

    def lose(self, why: str) -> None:
        """It is not used any more. why: in words that follow its name."""
        self._lost = self._lost or why
        if self._process is not None:
            self._process.kill(why)
        self._control.close()
        self._data.close()
        self._end()

    def close(self, grace_s: float) -> None:
        """Loads under way are cancelled, and taken back. May be called again."""
        self._is_closing = True
        self._control.revoke()
        self._lost = self._lost or "was closed"
        if self._process is not None:
            self._process.stop(grace_s)
        else:
            with self._turn:
                self._turn.wait_for(lambda: not self._loading, grace_s)
        self._control.close()
        self._data.close()
        self._end()

    def watch(self, now: float) -> None:
        """Look whether it still answers, and what it takes. now: by `time.monotonic`."""
        if self.has_ended:
            return
        if self._process is not None:
            self._bytes = self._process.memory_bytes()
        if self._loading:  # many servers answer nobody meanwhile; loads have their own limit
            self._answered_at = now
            return
        try:
            self._data.ask(f"{SERVICE}ServerLive", b"", min(_LIVE_S, self._limits.hang_s))
        except CallFailed as failed:
            if failed.code == "UNAVAILABLE" and self._process is None:
                self.lose(f"cannot be reached any more: {failed.details}")
            elif failed.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                if now - self._answered_at >= self._limits.hang_s:
                    self.lose(f"did not answer for {self._limits.hang_s:g} s and was given up")
                return
        self._answered_at = now  # even to say that it has no such method

    def memory_bytes(self) -> int:
        """What a process that Shoal started takes, as it was last looked at."""
        return 0 if self.has_ended else self._bytes

    # --- models ---------------------------------------------------------------------------------

    def predict_bytes(self, model: ToLoad) -> int:
        """What it will take, as far as anybody knows."""
        told = None
        with contextlib.suppress(CallFailed):
            told = self._interface.predict_bytes(model)
        return told or self._guessed_bytes(model)

    def load(self, model: ToLoad) -> Held:
        """Blocking. Raises InvalidArtifact when the server refuses the model, LoadFailed when it
        takes too long, NoRoom when the server says that it has none, Unavailable when it has
        ended."""
        with self._places:
            with self._turn:
                self._loading += 1
                self._loads += 1
                number, was_alone = self._loads, self._loading == 1
            try:
                before = self._process.memory_bytes() if self._process else 0
                told = self._interface.load(model, self._limits.load_timeout_s)
                size_bytes = told.size_bytes
                if size_bytes is None and was_alone and number == self._loads:
                    size_bytes = self._grown_bytes(before, model)
                self._formats.add(model.format)
            except CallFailed as failed:
                raise self._refused(model, failed) from None
            finally:
                with self._turn:
                    self._loading -= 1
                    self._turn.notify_all()
        inputs, outputs = self._metadata(model)
        return Held(
            size_bytes or self._guessed_bytes(model), told.max_concurrency, inputs, outputs)

    def unload(self, model: str) -> None:
        """Raises nothing: what cannot be unloaded is told in the log."""
        if self.has_ended and self._process is not None:
            return
        try:
            self._interface.unload(model, _UNLOAD_S)
        except CallFailed as failed:
            log.warning("a model could not be unloaded", runtime=self.name, model=model,
                        cause=str(failed))

    def _guessed_bytes(self, model: ToLoad) -> int:
        return self._default_bytes or round(model.files_bytes * _FILES_FACTOR)

    def _grown_bytes(self, before: int, model: ToLoad) -> int | None:
        """A server may use memory again that it had: it takes its files at least. The first of a
        format brings its framework's code along, which is not the model's."""
        if self._process is None:
            return None
        self._bytes = self._process.memory_bytes()
        if model.format not in self._formats:
            return None
        return max(self._bytes - before, model.files_bytes)

    def _refused(self, model: ToLoad, failed: CallFailed) -> ShoalError:
        """Why it is not loaded; what may be there of it is unloaded."""
        who = f"runtime {self.name!r}"
        if failed.code in NOT_TRIED:
            return InvalidArtifact(f"{who} refuses {model.path.name}: {failed.details}")
        if self._ended_by(failed):
            return Unavailable(f"{who} {self.how} while it loaded {model.path.name}")
        self.unload(model.id)
        if failed.code == "CANCELLED" and self._is_closing:
            return LoadFailed(f"the load into {who} was cancelled, as Shoal ends")
        if failed.code in GIVEN_UP:
            return LoadFailed(
                f"{who} has not loaded {model.path.name} within "
                f"{self._limits.load_timeout_s:g} s, and was told to leave it; raise the runtime's "
                "load_timeout_s if it only needs longer")
        if failed.code == "RESOURCE_EXHAUSTED":
            return NoRoom(f"{who} has no room for {model.path.name}: {failed.details}")
        details = failed.details
        if details == failed.code and self._process is not None and self._process.said:
            details = f"{details}; the last it said was: {self._process.said}"
        return InvalidArtifact(f"{who} cannot load {model.path.name}: {details}")

    def _ended_by(self, failed: CallFailed) -> bool:
        """Did the server end under this call?"""
        if self._is_closing:
            return False
        if failed.code in ("UNAVAILABLE", "CANCELLED") and self._process is not None:
            return self._process.wait() or self.has_ended
        if failed.code == "UNAVAILABLE":
            self.watch(time.monotonic())
        return self.has_ended

    # --- requests -------------------------------------------------------------------------------

    def infer(self, request: bytes) -> bytes:
        """A serialized ModelInferRequest to a ModelInferResponse. Raises CallFailed."""
        return self._data.ask(f"{SERVICE}ModelInfer", request, self._limits.call_timeout_s)

    def has_lost(self, model: str, failed: CallFailed) -> bool:
        """Does a failed request tell that the model is not loaded there any more?"""
        if failed.code == "NOT_FOUND":
            return True
        if failed.code != "UNAVAILABLE" or self.has_ended:
            return False
        # Triton's word for a model that was unloaded is that of a connection that broke.
        try:
            data = self._data.ask(
                f"{SERVICE}ModelReady",
                protobuf.write("inference.ModelReadyRequest", {"name": model}), QUICK_S)
            return not cast(_Ready, protobuf.parse("inference.ModelReadyResponse", data)).ready
        except (CallFailed, InvalidRequest):
            return False

    def ended_under(self, failed: CallFailed) -> bool:
        """Is it for want of the server that a request failed?"""
        if failed.code == "CANCELLED":
            return True
        return failed.code == "UNAVAILABLE" and (
            self._process is None or self._process.wait() or self.has_ended)

    def _metadata(self, model: ToLoad
                  ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """A server need not have them."""
        try:
            data = self._data.ask(
                f"{SERVICE}ModelMetadata",
                protobuf.write("inference.ModelMetadataRequest", {"name": model.id}), QUICK_S)
            metadata = cast(_Metadata, protobuf.parse("inference.ModelMetadataResponse", data))
            return _specs(metadata.inputs), _specs(metadata.outputs)
        except (CallFailed, InvalidRequest, ArtifactError) as error:
            log.debug("no metadata of a model", runtime=self.name, model=model.id, cause=str(error))
            return (), ()


def _specs(found: Sequence[_Tensor]) -> tuple[TensorSpec, ...]:
    for tensor in found:
        if tensor.datatype not in DATATYPES:
            raise InvalidArtifact(
                f"tensor {tensor.name!r} has the unknown datatype {tensor.datatype!r}")
    return tuple(
        TensorSpec(tensor.name, tensor.datatype,
                   tuple(extent if extent > 0 else -1 for extent in tensor.shape))
        for tensor in found
    )
