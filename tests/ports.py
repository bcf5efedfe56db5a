"""A port of this machine for a server that ends and comes back to where it was."""

from __future__ import annotations

import socket
from typing import Self


class HeldPort:
    """A free port of `host`, chosen by the system and given to nobody else until it is closed.

    It is bound and does not listen, so that who connects is refused. A server may listen there
    if it asks for SO_REUSEADDR, as nearly all do, any number of times.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, 0))
        self.number: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __str__(self) -> str:
        return str(self.number)

    def close(self) -> None:
        self._socket.close()
