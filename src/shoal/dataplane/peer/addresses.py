"""Where an instance can be reached by others: `unix:/path` or `tcp:host:port`. Opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from shoal.domain.errors import InvalidSpecification
from shoal.node.sockets import shown

_UNIX: Final = "unix:"
_TCP: Final = "tcp:"
MAX_PATH_BYTES: Final = 107  # Linux, unix(7): sun_path with its final zero


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str

    def __str__(self) -> str:
        return _UNIX + self.path


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """port 0: any free one, where it is listened on."""

    host: str
    port: int

    def __str__(self) -> str:
        return _TCP + shown(self.host, self.port)


Address: TypeAlias = UnixAddress | TcpAddress


def read_address(text: str) -> Address:
    """`tcp:` may be left out; an IPv6 host stands in brackets. Raises InvalidSpecification."""
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path:
            raise InvalidSpecification(f"the peer address {text!r} has no path; write unix:/path")
        if len(path.encode()) > MAX_PATH_BYTES:
            raise InvalidSpecification(
                f"the Unix socket's path {path} is longer than the {MAX_PATH_BYTES} bytes that the "
                "system allows; choose a shorter folder (data_dir), or a TCP address"
            )
        return UnixAddress(path)
    host, colon, port = text.removeprefix(_TCP).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not _known(host) or not port.isdecimal() or int(port) > 65535:
        raise InvalidSpecification(
            f"{text!r} is no peer address; write host:port, [ipv6]:port or unix:/path"
        )
    return TcpAddress(host, int(port))


def _known(host: str) -> bool:
    """Can it be looked up at all?"""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False
