"""What both sides of a link have in common: who is at the other end, and bodies in parts both ways.

Must not know requests and replies.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from shoal.codecs.peer.bodies import Inflow
from shoal.codecs.peer.frames import CREDIT, PeerFault
from shoal.codecs.peer.hello import Hello, agree
from shoal.codecs.peer.limits import Limits
from shoal.codecs.peer.outbox import Outbox
from shoal.codecs.peer.reading import FrameReader

C = TypeVar("C")


class Side(Generic[C]):
    """peer: who is at the other end, once known. out: what is to be sent there.

    C: what bodies come with, which is kept until they are complete.
    """

    __slots__ = ("_coming", "_hello", "_inflow", "_limits", "_reader", "out", "peer")

    def __init__(self, hello: Hello, limits: Limits) -> None:
        self.peer: Hello | None = None
        self.out = Outbox()
        self._hello = hello
        self._limits = limits
        self._reader = FrameReader()
        self._coming: dict[int, C] = {}  # whose bodies are being collected
        self._inflow = Inflow(limits.max_held_bytes)

    def _know(self, peer: Hello) -> None:
        """Raises PeerFault when there is nothing to talk about."""
        agree(self._hello, peer)
        self.peer = peer
        self._reader.trust()

    def _begin_body(self, stream: int, with_it: C, first: bytes, size: int) -> None:
        self._coming[stream] = with_it
        self._inflow.begin(stream, first, size)
        self._let_come()

    def _end_body(self, stream: int) -> None:
        """It is not needed any more, if there was one."""
        self._coming.pop(stream, None)
        if self._inflow.end(stream):
            self._let_come()

    def _let_come(self) -> None:
        for window in self._inflow.grants():
            self.out.add(window)

    def _grant(self, stream: int, data: bytes, at: int, end: int) -> None:
        """A WINDOW came."""
        if end - at < CREDIT.size:
            raise PeerFault("a WINDOW is too short")
        (credit,) = CREDIT.unpack_from(data, at)
        self.out.flow.grant(stream, credit)
