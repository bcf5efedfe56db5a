"""Sockets on which other instances are waited for. Must not know what they say."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from shoal.dataplane.peer.addresses import Address, TcpAddress, UnixAddress
from shoal.domain.errors import InvalidSpecification
from shoal.node.sockets import cannot_listen, listen_privately

_BACKLOG = 1024


def listen_on(address: Address) -> socket.socket:
    """A listening socket; a Unix one only for processes of the same user. Raises
    InvalidSpecification when the address cannot be had."""
    try:
        if isinstance(address, UnixAddress):
            return _unix(Path(address.path))
        return _tcp(address)
    except OSError as error:
        if isinstance(address, TcpAddress):
            raise cannot_listen(str(address), error, "--mesh-listen") from error
        raise InvalidSpecification(
            f"cannot listen on {address}: {error.strerror or error}; set --data-dir to a folder "
            "that may be written, or --mesh-listen"
        ) from error


def bound_address(address: Address, sock: socket.socket) -> Address:
    """`address` with the port that it got."""
    if isinstance(address, UnixAddress):
        return address
    return TcpAddress(address.host, int(sock.getsockname()[1]))


def remove_socket(path: str, inode: int) -> None:
    """Remove the file of a Unix socket, unless somebody else's is there by now."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _unix(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clear_away(path)
    return listen_privately(path, _BACKLOG)


def _clear_away(path: Path) -> None:
    """A socket's file outlives its process; where nobody listens any more it is in the way."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise InvalidSpecification(
                f"cannot listen on {path}: it is a file, not a socket; set --mesh-listen to "
                "another address"
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
    raise InvalidSpecification(
        f"another process listens for instances on {path}; give each instance an address of its "
        "own (--mesh-listen, or --data-dir)"
    )


def _tcp(address: TcpAddress) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.create_server(
        where, family=family, backlog=_BACKLOG, dualstack_ipv6=family == socket.AF_INET6)
    sock.setblocking(False)
    return sock
