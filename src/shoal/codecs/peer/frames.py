"""The frames that instances send each other: kinds, layouts, limits, and how each is written.

A frame is its length without this head (u32), its kind (u8), its stream (u32; 0: the link as a
whole), then its payload; all numbers are little endian. Must not know connections, nor what calls
and messages contain.

    kind      payload
    HELLO     a map, see `hello`; the first frame each way
    REQUEST   kind of call u8, flags u8, timeout in ms u32 (0: none), revision's length u16,
              head's length u32, whole body's length u64; revision, head, first part of the body
    DATA      more of the body of a request or a reply
    REPLY     outcome u8, flags u8, head's length u32, whole body's length u64; head, first part
    CANCEL    empty: nobody waits for the reply any more
    MESSAGE   opaque
    PING      opaque; comes back as PONG
    GOAWAY    why, as text: no new requests please, answers still come
    WINDOW    u64: so many more bytes of this body may come

Flags are for later versions, which must leave their meaning to be ignored by older ones; so are
kinds unknown here, and bytes behind a WINDOW's number.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

Data: TypeAlias = "bytes | memoryview"

HELLO, REQUEST, DATA, REPLY, CANCEL, MESSAGE, PING, PONG, GOAWAY, WINDOW = range(1, 11)
LAST_KIND: Final = WINDOW

HEAD_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16 * 1024**2
MAX_HELLO_BYTES: Final = 4096
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_REVISION_BYTES: Final = 1024
MAX_REASON_BYTES: Final = 1024
MAX_PING_BYTES: Final = 64
MAX_MESSAGE_BYTES: Final = MAX_FRAME_BYTES
MAX_STREAM: Final = 2**32 - 1

PART_BYTES: Final = 64 * 1024
"""What of a body goes into one frame: a link's other streams wait for no more than that."""

HEAD: Final = struct.Struct("<IBI")
REQUEST_HEAD: Final = struct.Struct("<BBIHIQ")
REPLY_HEAD: Final = struct.Struct("<BBIQ")
CREDIT: Final = struct.Struct("<Q")

_REQUEST_FRAME: Final = struct.Struct("<IBIBBIHIQ")
_REPLY_FRAME: Final = struct.Struct("<IBIBBIQ")


class PeerFault(Exception):
    """The other side breaks the protocol or a limit, or is none of ours: the link must end.
    `reason`: a sentence for the operator; it is sent to the other side too."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def frame(kind: int, stream: int, payload: Data = b"") -> bytes:
    return HEAD.pack(len(payload), kind, stream) + payload


def request_frame(
    stream: int, fixed: tuple[int, int, int], names: tuple[bytes, bytes], first: Data, size: int
) -> bytes:
    """fixed: kind of call, flags, timeout in ms. names: revision and head. first: of a body of
    `size` bytes."""
    kind, flags, timeout_ms = fixed
    revision, head = names
    return b"".join((
        _REQUEST_FRAME.pack(
            20 + len(revision) + len(head) + len(first), REQUEST, stream,
            kind, flags, timeout_ms, len(revision), len(head), size,
        ),
        revision, head, first,
    ))  # fmt: skip


def reply_frame(stream: int, outcome: int, head: bytes, first: list[Data], size: int) -> bytes:
    """first: of a body of `size` bytes, in pieces."""
    here = 0
    for piece in first:
        here += len(piece)
    return b"".join((
        _REPLY_FRAME.pack(14 + len(head) + here, REPLY, stream, outcome, 0, len(head), size),
        head, *first,
    ))  # fmt: skip


def window_frame(stream: int, credit: int) -> bytes:
    return frame(WINDOW, stream, CREDIT.pack(credit))


def goaway_frame(reason: str) -> bytes:
    return frame(GOAWAY, 0, reason.encode()[:MAX_REASON_BYTES])


def read_reason(payload: bytes) -> str:
    return payload[:MAX_REASON_BYTES].decode(errors="replace")
