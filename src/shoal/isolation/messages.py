"""What the server and the process of a model tell each other. Data alone.

    server ──► Load              ──► Loaded or Failure
           ──► Predict + tensors ──► Answer + tensors, or Failure
           ──► Open + a socket   ──► Done: another call at once may come over it
           ──► Close             ──► Done, and the process ends
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from shoal.domain.errors import (
    MethodNotAllowed,
    ModelFailed,
    PlaceUnavailable,
    ShoalError,
    Unavailable,
    family,
)
from shoal.domain.signature import Signature, TensorSpec
from shoal.isolation.tensors import Piece

if TYPE_CHECKING:
    from shoal.domain.model import JsonValue
else:  # as in `domain.model`: msgspec takes no recursive alias
    JsonValue = Any


class Load(msgspec.Struct, array_like=True, tag=True, frozen=True):
    """runtime: `module:Class`. The rest as in `ports.Artifact`. memory_bytes: that loading may
    take; 0: any."""

    runtime: str
    model: str
    version: int
    path: str
    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: dict[str, JsonValue]
    threads: int
    trusted_types: tuple[str, ...]
    memory_bytes: int


class Predict(msgspec.Struct, array_like=True, tag=True, frozen=True):
    pieces: list[Piece]
    parameters: dict[str, JsonValue]
    outputs: tuple[str, ...]


class Open(msgspec.Struct, array_like=True, tag=True, frozen=True):
    pass


class Close(msgspec.Struct, array_like=True, tag=True, frozen=True):
    pass


class Loaded(msgspec.Struct, array_like=True, tag=True, frozen=True):
    """As in `ports.LoadedModel`, `Noted` and `RowLimited`."""

    signature: Signature
    platform: str
    max_concurrency: int
    max_batch_rows: int | None
    notes: tuple[str, ...]


class Answer(msgspec.Struct, array_like=True, tag=True, frozen=True):
    pieces: list[Piece]


class Done(msgspec.Struct, array_like=True, tag=True, frozen=True):
    pass


class Failure(msgspec.Struct, array_like=True, tag=True, frozen=True):
    """A ShoalError. retry_after_s: of those that have it."""

    code: str
    message: str
    retry_after_s: float = 1.0

    @classmethod
    def of(cls, error: ShoalError) -> Failure:
        after_s = error.retry_after_s
        return cls(error.code, error.message, 1.0 if after_s is None else after_s)

    def error(self) -> ShoalError:
        """The same error again; ModelFailed for one that a model has no reason to raise."""
        kind = _KINDS.get(self.code, ModelFailed)
        if issubclass(kind, Unavailable | PlaceUnavailable):
            return kind(self.message, self.retry_after_s)
        if issubclass(kind, MethodNotAllowed):
            return ModelFailed(self.message)
        return kind(self.message)


Request: TypeAlias = "Load | Predict | Open | Close"
Reply: TypeAlias = "Loaded | Answer | Done | Failure"

_KINDS: Final = {kind.code: kind for kind in family(ShoalError)}

encode: Final = msgspec.msgpack.Encoder().encode
read_request: Final = msgspec.msgpack.Decoder(Load | Predict | Open | Close).decode
read_reply: Final = msgspec.msgpack.Decoder(Loaded | Answer | Done | Failure).decode
