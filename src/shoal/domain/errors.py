"""Every error Shoal can answer with, as one tree.

    ShoalError
    ├── InvalidRequest            what the client sent is wrong
    │   ├── InvalidInput          … in a tensor: its name, datatype, shape or data
    │   ├── BodyTooLarge
    │   ├── PathNotFound
    │   ├── MethodNotAllowed
    │   └── NotAllowed            … right, but switched off by a setting
    ├── InvalidSpecification      a registration, file, flag or setting is wrong
    ├── NotFound
    │   ├── ModelNotFound
    │   └── VersionNotFound
    ├── Conflict                  the thing changed meanwhile, or exists already
    ├── ArtifactError             the files of a model
    │   ├── ArtifactMissing
    │   ├── ArtifactChanged       … are not the ones that were declared
    │   ├── UnknownFormat
    │   ├── InvalidArtifact       … cannot be read by their framework
    │   ├── NotTrusted            … would run code and lie outside the trusted locations
    │   └── RuntimeMissing        … need a framework that is not installed
    ├── ModelFailed               the model itself raised while predicting
    ├── Unavailable               not now; says when to come back
    │   ├── LoadFailed            carries the cause
    │   ├── NoRoom
    │   │   └── TooLarge          larger than the whole budget
    │   ├── Thrashing
    │   ├── Overloaded
    │   ├── Unloaded              an operator took it out of service
    │   ├── ShuttingDown
    │   └── StoreUnavailable
    │       └── StoreDamaged  … and stays so until somebody moves its file aside
    └── DeadlineExceeded

A message names the thing, the cause and the way out, in that order, and may be shown to anybody:
no traceback, no secret. How a code maps to HTTP and gRPC is one table, `codecs.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class ShoalError(Exception):
    """Root of the tree. `code` is stable and machine-readable; `retryable` says whether the same
    request may succeed later without anybody changing anything."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(ShoalError):
    code = "INVALID_REQUEST"


class InvalidInput(InvalidRequest):
    """A tensor of a request is wrong. Models written in Python may raise it themselves."""

    code = "INVALID_INPUT"


class BodyTooLarge(InvalidRequest):
    code = "BODY_TOO_LARGE"


class PathNotFound(InvalidRequest):
    code = "PATH_NOT_FOUND"


class MethodNotAllowed(InvalidRequest):
    """`allowed` are the methods the path does take."""

    code = "METHOD_NOT_ALLOWED"

    def __init__(self, message: str, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class NotAllowed(InvalidRequest):
    code = "NOT_ALLOWED"


class InvalidSpecification(ShoalError):
    code = "INVALID_SPECIFICATION"


class NotFound(ShoalError):
    code = "NOT_FOUND"


class ModelNotFound(NotFound):
    code = "MODEL_NOT_FOUND"


class VersionNotFound(NotFound):
    code = "VERSION_NOT_FOUND"


class Conflict(ShoalError):
    code = "CONFLICT"


class ArtifactError(ShoalError):
    code = "ARTIFACT_ERROR"


class ArtifactMissing(ArtifactError):
    code = "ARTIFACT_MISSING"
    retryable = True


class ArtifactChanged(ArtifactError):
    code = "ARTIFACT_CHANGED"
    retryable = True


class UnknownFormat(ArtifactError):
    code = "UNKNOWN_FORMAT"


class InvalidArtifact(ArtifactError):
    code = "INVALID_ARTIFACT"


class NotTrusted(ArtifactError):
    code = "NOT_TRUSTED"


class RuntimeMissing(ArtifactError):
    code = "RUNTIME_MISSING"


class ModelFailed(ShoalError):
    code = "MODEL_FAILED"


class Unavailable(ShoalError):
    """Not now. `retry_after_s` (seconds) says when asking again makes sense."""

    code = "UNAVAILABLE"
    retryable = True

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LoadFailed(Unavailable):
    code = "LOAD_FAILED"


class NoRoom(Unavailable):
    code = "NO_ROOM"


class TooLarge(NoRoom):
    code = "TOO_LARGE"
    retryable = False


class Thrashing(Unavailable):
    code = "THRASHING"


class Overloaded(Unavailable):
    code = "OVERLOADED"


class Unloaded(Unavailable):
    code = "UNLOADED"


class ShuttingDown(Unavailable):
    code = "SHUTTING_DOWN"


class StoreUnavailable(Unavailable):
    code = "STORE_UNAVAILABLE"


class StoreDamaged(StoreUnavailable):
    """The store's file cannot be read any more, in part or at all."""

    code = "STORE_DAMAGED"
    retryable = False


class DeadlineExceeded(ShoalError):
    code = "DEADLINE_EXCEEDED"
    retryable = True


def family(kind: type[ShoalError]) -> Iterator[type[ShoalError]]:
    """`kind` and all that is derived from it, parents first."""
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)
