"""What a connection remembers of its streams: the open ones' state, the fate of closed ones.

RFC 9113, section 5.1. Decides nothing about frames.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final

import msgspec

from shoal.codecs.http2.events import Data


class Stream(msgspec.Struct):
    """A request whose answer has not ended. Made for every request, so it is small and quick.

    Inwards. `reading`: the peer has not ended its side. `window`: what the peer may still send;
    `received`: bytes of body; `charged`: the same for `Options.max_body_bytes`; `expected`: by
    content-length, -1 if not said. `held`: credit waits for `acknowledge`; `unread`: what waits.

    Outwards. `credit`: what may be sent beyond the peer's initial window (mostly negative: what has
    been sent), so that a change of that setting touches no stream. `begun`: HEADERS were given;
    `ending`: nothing more will be given. `queue`, `queued`: data that waits, and its bytes;
    `trailers`: their block; `listed`: has its turn in the round of streams that have data to send.
    """

    reading: bool
    window: int
    expected: int = -1
    received: int = 0
    charged: int = 0
    unread: int = 0
    held: bool = False
    begun: bool = False
    ending: bool = False
    listed: bool = False
    credit: int = 0
    queued: int = 0
    queue: deque[Data] | None = None
    trailers: bytes | None = None


class Fate(Enum):
    """How a stream that is not open came to be so."""

    IDLE = auto()
    SKIPPED = auto()  # a later one was opened instead
    ENDED = auto()
    RESET_BY_PEER = auto()
    RESET_HERE = auto()  # the peer may not know it yet


REMEMBERED: Final = 256  # resets, and gaps between streams


class Past:
    """The fates of a peer's streams, in bounded memory: what is not remembered has ended.

    `last`: the last stream that the peer has opened, -1 before the first.
    """

    __slots__ = ("_forgotten", "_resets", "_skipped", "last")

    def __init__(self) -> None:
        self.last = -1
        self._resets: dict[int, Fate] = {}
        self._skipped: deque[range] = deque(maxlen=REMEMBERED)
        self._forgotten = 0  # the latest stream whose reset is no longer known

    def open(self, stream: int) -> None:
        """`stream` > last is opened; all idle ones below it are closed (section 5.1.1)."""
        if stream != self.last + 2:
            self._skipped.append(range(self.last + 2, stream, 2))
        self.last = stream

    def reset(self, stream: int, fate: Fate) -> None:
        self._resets[stream] = fate
        if len(self._resets) > REMEMBERED:
            oldest = next(iter(self._resets))
            del self._resets[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def fate(self, stream: int) -> Fate:
        """Of a stream that is not open. Old resets are forgotten in the peer's favour."""
        if stream > self.last or not stream & 1:
            return Fate.IDLE
        if stream in self._resets:
            return self._resets[stream]
        if any(stream in gap for gap in self._skipped):
            return Fate.SKIPPED
        return Fate.RESET_HERE if stream <= self._forgotten else Fate.ENDED
