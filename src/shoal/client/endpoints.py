"""Which of a server's two addresses a call goes to, and how its URL is written.

Knows neither HTTP libraries nor what the calls mean.
"""

from __future__ import annotations

import enum
import ipaddress
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
    """Base URLs without a trailing slash, a path prefix included when there is one."""

    inference: str
    management: str

    @classmethod
    def of(cls, server: str, management: str | None = None) -> Endpoints:
        """`management` defaults to port 8082 of the same host. `http://` may be left out.

        Raises InvalidSpecification when an address is no HTTP URL.
        """
        inference = _base(server)
        if management is not None:
            return cls(inference, _base(management))
        parts = urlsplit(inference)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return cls(inference, f"{parts.scheme}://{host}:{MANAGEMENT_PORT}")

    def url(self, side: Side, path: str) -> str:
        return (self.inference if side is Side.INFERENCE else self.management) + path

    @property
    def local(self) -> bool:
        """Whether both addresses are this machine's own, which no proxy can reach."""
        return _is_loopback(self.inference) and _is_loopback(self.management)


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


def _is_loopback(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
