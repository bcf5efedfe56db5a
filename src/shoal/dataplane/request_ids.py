"""Ids by which clients and operators tell requests from others, whatever protocol carried them."""

from __future__ import annotations

import itertools
import secrets
from typing import Final

HEADER: Final = b"x-request-id"
MOST_BYTES: Final = 128

_PREFIX: Final = secrets.token_hex(4)
_NUMBERS: Final = itertools.count(1)


def usable(given: bytes | None) -> str | None:
    """What a client sent, when it is fit to be logged and returned: 1 to 128 visible ASCII
    characters."""
    if given and len(given) <= MOST_BYTES and all(33 <= byte <= 126 for byte in given):
        return given.decode("ascii")
    return None


def make() -> str:
    """A new one, of this process alone."""
    return f"{_PREFIX}-{next(_NUMBERS):x}"
