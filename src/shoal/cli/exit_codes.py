"""Says with which status a command, or a worker, ends by kind of error."""

from __future__ import annotations

from typing import Final

from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    InvalidSpecification,
    NotFound,
    ShoalError,
    Unavailable,
)

_CODES: Final[tuple[tuple[type[ShoalError], int], ...]] = (
    (NotFound, 3),
    (Unavailable, 4),
    (DeadlineExceeded, 4),
    (InvalidRequest, 5),
    (InvalidSpecification, 5),
)
EPILOG: Final = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unavailable or no connection, "
    "5 invalid input or specification, 130 interrupted."
)


def exit_code(error: ShoalError) -> int:
    """As the epilogue of the help says."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


def defect(error: Exception) -> str:
    """What a user is told of an error that nobody expected."""
    return (
        f"{type(error).__name__}: {error}; this is a defect of Shoal, please report it "
        "('python -X dev -m shoal.cli.main' shows the traceback)"
    )
