"""What each error of the tree is called in HTTP and in gRPC: the one table of the house.

Both APIs, the public one and the operators', answer by it. Knows neither's framework.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from shoal.domain.errors import (
    ArtifactError,
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSpecification,
    MethodNotAllowed,
    ModelFailed,
    NotAllowed,
    NotFound,
    Overloaded,
    PathNotFound,
    PlaceUnavailable,
    ShoalError,
    StoreDamaged,
    TooLarge,
    Unavailable,
)

_LONGEST_WAIT_S: Final = 86_400.0  # a day; whoever is told to wait longer will not


@dataclass(frozen=True, slots=True)
class _Row:
    """http: a status of RFC 9110. grpc: the name of a code of google.rpc.Code."""

    http: int
    grpc: str


# A class without a row of its own takes that of the nearest base class.
_TABLE: Final[dict[type[ShoalError], _Row]] = {
    ShoalError: _Row(500, "INTERNAL"),
    InvalidRequest: _Row(400, "INVALID_ARGUMENT"),
    BodyTooLarge: _Row(413, "RESOURCE_EXHAUSTED"),
    PathNotFound: _Row(404, "UNIMPLEMENTED"),
    MethodNotAllowed: _Row(405, "UNIMPLEMENTED"),
    NotAllowed: _Row(403, "PERMISSION_DENIED"),
    InvalidSpecification: _Row(400, "INVALID_ARGUMENT"),
    NotFound: _Row(404, "NOT_FOUND"),
    Conflict: _Row(409, "ABORTED"),
    ArtifactError: _Row(422, "FAILED_PRECONDITION"),
    PlaceUnavailable: _Row(503, "UNAVAILABLE"),
    ModelFailed: _Row(500, "INTERNAL"),
    Unavailable: _Row(503, "UNAVAILABLE"),
    # gRPC clients repeat UNAVAILABLE by themselves, which helps neither of these.
    TooLarge: _Row(503, "RESOURCE_EXHAUSTED"),
    StoreDamaged: _Row(503, "DATA_LOSS"),
    Overloaded: _Row(429, "RESOURCE_EXHAUSTED"),
    DeadlineExceeded: _Row(504, "DEADLINE_EXCEEDED"),
}


def http_status(error: ShoalError | type[ShoalError]) -> int:
    """The HTTP status that answers `error`, or any error of that class."""
    return _row(error).http


def grpc_code(error: ShoalError | type[ShoalError]) -> str:
    """The name of the gRPC status code that answers `error`, such as `NOT_FOUND`."""
    return _row(error).grpc


def retry_after(error: ShoalError) -> int | None:
    """Whole seconds for the header `Retry-After` (RFC 9110, 10.2.3), rounded up; None when the
    error names no time, or when repeating the same request cannot help."""
    if error.retry_after_s is None or not error.retryable:
        return None
    return math.ceil(min(max(0.0, error.retry_after_s), _LONGEST_WAIT_S))


def error_body(error: ShoalError) -> bytes:
    """`{"error": message}`: the body of a failed inference (Open Inference Protocol, "Inference
    Response JSON Error Object")."""
    return msgspec.json.encode({"error": error.message})


def _row(error: ShoalError | type[ShoalError]) -> _Row:
    kind = error if isinstance(error, type) else type(error)
    return next(_TABLE[base] for base in kind.__mro__ if base in _TABLE)
