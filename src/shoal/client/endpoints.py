"""Which addresses the two sides of the API have, and how they are written.

Knows neither HTTP libraries nor what the calls mean.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from shoal.domain.errors import InvalidSpecification

MANAGEMENT_PORT: Final = 8082


class Side(enum.Enum):
    """The public inference address, or the operators' one."""

    INFERENCE = "inference"
    MANAGEMENT = "management"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Base URLs, at least one a side, without a trailing slash, a path prefix included when there
    is one."""

    inference: tuple[str, ...]
    management: tuple[str, ...]

    @classmethod
    def of(
        cls, server: str | Sequence[str], management: str | Sequence[str] | None = None
    ) -> Endpoints:
        """`management` defaults to port 8082 of the same hosts. `http://` may be left out.

        Raises InvalidSpecification when an address is no HTTP URL, or when there is none.
        """
        inference = _bases(server)
        if management is not None:
            return cls(inference, _bases(management))
        return cls(inference, tuple(dict.fromkeys(_beside(base) for base in inference)))

    @property
    def local(self) -> bool:
        """Whether all addresses are this machine's own, which no proxy can reach."""
        return all(_is_loopback(base) for base in (*self.inference, *self.management))


def segment(name: str) -> str:
    """`name` as one segment of a path."""
    return quote(name, safe="")


def with_query(path: str, **fields: str | int | bool | None) -> str:
    """`path` and the fields that are not None; booleans as `true` and `false`."""
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in fields.items()
        if value is not None
    }
    return f"{path}?{urlencode(given)}" if given else path


def _bases(given: str | Sequence[str]) -> tuple[str, ...]:
    addresses = [given] if isinstance(given, str) else given
    if not addresses:
        raise InvalidSpecification(
            "there is no server address; write for example http://localhost:8080"
        )
    return tuple(dict.fromkeys(_base(address) for address in addresses))


def _base(address: str) -> str:
    text = address if "://" in address else f"http://{address}"
    wrong = f"server address {address!r} is no HTTP URL; write for example http://localhost:8080"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise InvalidSpecification(wrong) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise InvalidSpecification(wrong)
    return text.rstrip("/")


def _beside(base: str) -> str:
    """The management address that goes with an inference address."""
    parts = urlsplit(base)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{MANAGEMENT_PORT}"


def _is_loopback(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
