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
    │   ├── NotTrusted            … would run code outside the trusted locations, or are not signed
    │   ├── PlaceDenied           … lie where these credentials may not read
    │   ├── PlaceUnavailable      … lie where nobody answers now
    │   ├── RuntimeMissing        … need a framework that is not installed
    │   ├── NoSupportingRuntime   … are of a format, version, protocol that no runtime takes
    │   ├── RuntimeNotRecognized  … are for a serving runtime that is not declared
    │   └── RuntimeDisabled       … are for one that loads nothing now
    ├── ModelFailed               the model itself raised while predicting
    ├── Unavailable               not now; says when to come back
    │   ├── LoadFailed            carries the cause
    │   ├── NoRoom
    │   │   ├── TooLarge          larger than the whole budget
    │   │   └── AcceleratorFull   … on the device itself, whatever the budget says
    │   ├── Thrashing
    │   ├── Overloaded
    │   ├── Unloaded              an operator took it out of service
    │   ├── CopyGone              … from this instance; others may answer
    │   ├── Unreachable           an instance that is needed does not answer
    │   ├── ShuttingDown
    │   └── StoreUnavailable
    │       └── StoreDamaged  … and stays so until somebody moves its file aside
    └── DeadlineExceeded

A message names the thing, the cause and the way out, in that order, and may be shown to anybody:
no traceback, no secret. How a code maps to HTTP and gRPC is one table, `codecs.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self


class ShoalError(Exception):
    """Root of the tree. `code` is stable and machine-readable; `retryable` says whether the same
    request may succeed later without anybody changing anything; `retry_after_s` (seconds) when, or
    None where nothing is known of that."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    retry_after_s: float | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def worded(self, message: str) -> Self:
        """The same error in other words."""
        other = type(self).__new__(type(self), message)
        other.__dict__.update(self.__dict__)
        other.message = message
        return other


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


class PlaceDenied(ArtifactError):
    code = "PLACE_DENIED"


class PlaceUnavailable(ArtifactError):
    """A place that keeps artifacts (an object store, a web server) cannot be asked now.
    `retry_after_s`: as the place says, else a time after which outages often have ended."""

    code = "PLACE_UNAVAILABLE"
    retryable = True
    retry_after_s: float

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = 2.0 if retry_after_s is None else retry_after_s


class RuntimeMissing(ArtifactError):
    code = "RUNTIME_MISSING"


class NoSupportingRuntime(ArtifactError):
    """KServe's reason of this name, as are the two that follow."""

    code = "NO_SUPPORTING_RUNTIME"


class RuntimeNotRecognized(ArtifactError):
    code = "RUNTIME_NOT_RECOGNIZED"


class RuntimeDisabled(ArtifactError):
    code = "RUNTIME_DISABLED"


class ModelFailed(ShoalError):
    code = "MODEL_FAILED"


class Unavailable(ShoalError):
    """Not now. `retry_after_s` (seconds) says when asking again makes sense."""

    code = "UNAVAILABLE"
    retryable = True
    retry_after_s: float

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


class AcceleratorFull(NoRoom):
    """needed_bytes: that the load would have taken there, at least."""

    code = "ACCELERATOR_FULL"

    def __init__(self, message: str, needed_bytes: int = 0) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


class Thrashing(Unavailable):
    code = "THRASHING"


class Overloaded(Unavailable):
    code = "OVERLOADED"


class Unloaded(Unavailable):
    code = "UNLOADED"


class CopyGone(Unavailable):
    code = "COPY_GONE"


class Unreachable(Unavailable):
    code = "UNREACHABLE"


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
