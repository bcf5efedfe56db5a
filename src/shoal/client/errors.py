"""Turns what a server answered, or the lack of an answer, into the errors of `domain.errors`.

A Shoal server says the error's code (in the body of the management API, in the header
`shoal-error-code` of the inference API); for any other server the status decides. Knows no
HTTP library.

    ShoalError
    ├── UnexpectedAnswer              not what the protocol allows; another program, or another age
    └── Unavailable
        └── ConnectionFailed          no answer at all
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from shoal.domain.errors import (
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSpecification,
    MethodNotAllowed,
    NotAllowed,
    NotFound,
    Overloaded,
    PlaceUnavailable,
    ShoalError,
    Unavailable,
    family,
)

_SHOWN_CHARACTERS: Final = 200  # of a body that is not ours


class ConnectionFailed(Unavailable):
    """The server could not be reached, or hung up before it had answered.

    cause: in short, without the address. sent: whether the request may have reached the server; a
    call that is not repeatable may then have taken effect all the same.
    """

    code = "CONNECTION_FAILED"

    def __init__(
        self, message: str, retry_after_s: float = 1.0, *, cause: str = "", sent: bool = True
    ) -> None:
        super().__init__(message, retry_after_s)
        self.cause = cause or message
        self.sent = sent


class UnexpectedAnswer(ShoalError):
    """The answer is not what the protocol allows: not a Shoal server, or one of another age."""

    code = "UNEXPECTED_ANSWER"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response. headers: names in lower case. url: what was asked, for messages."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    url: str = ""


class _Report(msgspec.Struct):
    """The body of an error: the protocol's `error`, and what Shoal adds to it."""

    error: str
    code: str | None = None


def error_of(answer: Answer) -> ShoalError:
    """The typed error that a refusing answer stands for. Never raises."""
    try:
        report = msgspec.json.decode(answer.body, type=_Report)
    except (msgspec.DecodeError, UnicodeDecodeError):
        report = _Report(error=_foreign(answer))
    code = answer.headers.get("shoal-error-code", report.code or "")
    return _make(_CLASSES.get(code) or _class_of(answer.status), report.error, answer)


def error_of_all(what: str, failures: Mapping[str, Unavailable]) -> Unavailable:
    """One error for several addresses that all failed. what: was asked. failures: by address.

    A ConnectionFailed when no server said a word; otherwise what the last one said that did.
    """
    told = ", ".join(f"{base} ({_cause_of(error)})" for base, error in failures.items())
    message = (
        f"{what}: none of {len(failures)} servers could answer: {told}; "
        "check the addresses, and that the servers run"
    )
    said = [error for error in failures.values() if not isinstance(error, ConnectionFailed)]
    if said:
        return type(said[-1])(message, said[-1].retry_after_s)
    sent = any(isinstance(error, ConnectionFailed) and error.sent for error in failures.values())
    return ConnectionFailed(message, sent=sent)


def _cause_of(error: Unavailable) -> str:
    return error.cause if isinstance(error, ConnectionFailed) else f"{error.code}: {error.message}"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, given as such or as a date (RFC 9110, 10.2.3), which is
    read against the answer's own `Date`; None when there is none that can be read."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _make(kind: type[ShoalError], message: str, answer: Answer) -> ShoalError:
    if issubclass(kind, Unavailable | PlaceUnavailable):
        wait_s = retry_after_s(answer.headers)
        return kind(message) if wait_s is None else kind(message, wait_s)
    if issubclass(kind, MethodNotAllowed):
        allowed = answer.headers.get("allow", "").split(",")
        return kind(message, tuple(method.strip() for method in allowed if method.strip()))
    return kind(message)


def _class_of(status: int) -> type[ShoalError]:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return InvalidRequest
    return ShoalError if status >= 500 else UnexpectedAnswer


def _foreign(answer: Answer) -> str:
    text = " ".join(answer.body.decode("utf-8", "replace").split())
    shown = text[:_SHOWN_CHARACTERS] + ("…" if len(text) > _SHOWN_CHARACTERS else "")
    said = f": {shown}" if shown else ""
    return f"{answer.url or 'the server'} answered {answer.status}{said}"


_CLASSES: Final = {kind.code: kind for kind in family(ShoalError)}
_BY_STATUS: Final[dict[int, type[ShoalError]]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    405: MethodNotAllowed,
    408: DeadlineExceeded,
    409: Conflict,
    413: BodyTooLarge,
    422: InvalidSpecification,
    429: Overloaded,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}
