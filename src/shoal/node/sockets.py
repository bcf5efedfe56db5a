"""Opens the sockets on which this process listens, and says why one cannot be had.

Must not know what is served on them.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from typing import Final

from shoal.domain.errors import InvalidSpecification

_WAYS_OUT: Final = {
    errno.EADDRINUSE: "the port is in use: stop what listens there, or take another",
    errno.EACCES: "the port needs privileges: take one above 1023",
    errno.EADDRNOTAVAIL: "no network interface has this address: take another",
}
_NO_SUCH_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def shown(host: str, port: int) -> str:
    """`host:port`; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def listen_on(host: str, port: int, flags: str, backlog: int) -> list[socket.socket]:
    """Listening sockets on every address of `host`, all on one port; 0: any free one.

    flags: with which host and port are chosen. Raises InvalidSpecification when it cannot listen
    there.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # the latter for labels no name can have
        raise cannot_listen(shown(host, port), error, flags) from None
    sockets: list[socket.socket] = []
    refusal: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            sockets.append(socket.create_server(
                (address[0], port, *address[2:]), family=family, backlog=backlog))
            sockets[-1].setblocking(False)
            port = sockets[0].getsockname()[1]
        except OSError as error:
            refusal = error
            if error.errno not in _NO_SUCH_ADDRESS:
                break  # a name may stand for addresses that are not there, not for taken ones
    else:
        if sockets:
            return sockets
    assert refusal is not None
    for opened in sockets:
        opened.close()
    raise cannot_listen(shown(host, port), refusal, flags) from None


def listen_privately(path: Path, backlog: int) -> socket.socket:
    """A listening socket at `path`, for this user's processes alone; takes the place of what is
    there. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        # Nobody can connect before `listen`, so there is no moment in which anybody may.
        path.chmod(0o600)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def cannot_listen(
    where: str, error: OSError | UnicodeError, flags: str
) -> InvalidSpecification:
    """flags: with which it is chosen where to listen."""
    if isinstance(error, UnicodeError):
        why = "this is no host name"
    else:
        why = _WAYS_OUT.get(error.errno or 0) or error.strerror or str(error)
    return InvalidSpecification(f"cannot listen on {where}: {why}; set {flags}")
