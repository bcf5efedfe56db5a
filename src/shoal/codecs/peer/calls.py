"""What instances ask each other and answer. Must not know frames."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from shoal.codecs.peer.frames import Data

HTTP: Final = 1
GRPC: Final = 2
MANAGEMENT: Final = 3


class Outcome(enum.IntEnum):
    """ANSWERED: head and body are the answer. MISS: no such copy here. REFUSED: not now. FAILED: it
    went wrong inside, and may have run. After MISS and REFUSED it certainly did not run, and the
    body may say more."""

    ANSWERED = 1
    MISS = 2
    REFUSED = 3
    FAILED = 4


class PeerCall(msgspec.Struct):
    """A request for the copy of `revision`, or (MANAGEMENT) a question of those who look at the
    mesh, for none.

    kind: HTTP, GRPC or MANAGEMENT. head: opaque here, at most 64 KiB. timeout_ms: what is left of
    the request's time; 0: nobody said. peer: the instance that asks, once it has arrived.
    """

    kind: int
    revision: str
    head: bytes
    body: Data
    timeout_ms: int = 0
    flags: int = 0
    peer: str = ""


class PeerReply(msgspec.Struct):
    """`body`: pieces, which are sent without being joined when they are large."""

    outcome: Outcome
    head: bytes = b""
    body: list[Data] = []


class Lost(msgspec.Struct):
    """There will be no reply. written: all of the request may have reached the other side; if not,
    it certainly did not run."""

    written: bool
    why: str


OnReply: TypeAlias = Callable[["PeerReply | Lost"], None]


def refusal(why: str) -> PeerReply:
    return PeerReply(Outcome.REFUSED, b"", [why.encode()])
