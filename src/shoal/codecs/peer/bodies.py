"""Bodies that do not fit into one frame: sent in turns as credit allows, collected as memory does.

The beginning of a body comes with its request or reply. The rest waits until the receiver, whose
memory it will take, grants all of it with one WINDOW. Must not know requests nor sockets.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from shoal.codecs.peer.frames import DATA, HEAD, PART_BYTES, Data, PeerFault, window_frame


def split(body: list[Data]) -> tuple[list[Data], list[memoryview]]:
    """The pieces of the first PART_BYTES bytes, and the others."""
    first: list[Data] = []
    room = PART_BYTES
    for number, piece in enumerate(body):
        if len(piece) > room:
            view = memoryview(piece)
            rest = [view[room:], *(memoryview(other) for other in body[number + 1 :])]
            return [*first, view[:room]], rest
        first.append(piece)
        room -= len(piece)
    return first, []


class _Going:
    """The rest of a body on its way out."""

    __slots__ = ("credit", "left", "pieces", "waiting")

    def __init__(self, pieces: list[memoryview]) -> None:
        self.pieces = deque(pieces)
        self.left = sum(map(len, pieces))
        self.credit = 0
        self.waiting = True  # for credit

    def cut(self, size: int) -> list[Data]:
        self.left -= size
        self.credit -= size
        out: list[Data] = []
        while size:
            piece = self.pieces.popleft()
            if len(piece) > size:
                self.pieces.appendleft(piece[size:])
                piece = piece[:size]
            out.append(piece)
            size -= len(piece)
        return out


class Outflow:
    """The rests that are to be sent, a part of each in turn. `size_bytes`: of all of them."""

    __slots__ = ("_going", "_turns", "size_bytes")

    def __init__(self) -> None:
        self._going: dict[int, _Going] = {}
        self._turns: deque[int] = deque()
        self.size_bytes = 0

    def add(self, stream: int, rest: list[memoryview]) -> None:
        going = self._going[stream] = _Going([piece for piece in rest if len(piece)])
        self.size_bytes += going.left

    def grant(self, stream: int, credit: int) -> None:
        """Streams that are over are ignored: the grant may have crossed their end."""
        going = self._going.get(stream)
        if going is None:
            return
        going.credit = min(going.left, going.credit + credit)
        if going.waiting and going.credit:
            going.waiting = False
            self._turns.append(stream)

    def drop(self, stream: int) -> None:
        going = self._going.pop(stream, None)
        if going is not None:
            self.size_bytes -= going.left
            if not going.waiting:
                self._turns.remove(stream)

    def __contains__(self, stream: int) -> bool:
        return stream in self._going

    @property
    def due(self) -> bool:
        """Could something be sent now?"""
        return bool(self._turns)

    def take(self, most_bytes: int) -> list[Data]:
        """Frames of about so many bytes."""
        out: list[Data] = []
        while self._turns and most_bytes > 0:
            stream = self._turns.popleft()
            going = self._going[stream]
            size = min(PART_BYTES, going.credit)
            out.append(HEAD.pack(size, DATA, stream))
            out += going.cut(size)
            most_bytes -= size
            self.size_bytes -= size
            if not going.left:
                del self._going[stream]
            elif going.credit:
                self._turns.append(stream)
            else:
                going.waiting = True
        return out


class _Coming:
    """A body on its way in. `room` is None until it is granted."""

    __slots__ = ("at", "first", "room", "size")

    def __init__(self, first: bytes, size: int) -> None:
        self.first = first
        self.size = size
        self.at = len(first)
        self.room: memoryview | None = None


class Inflow:
    """The bodies that are being collected, or still handled. Their sum stays within
    `budget_bytes`, unless a single one is larger."""

    __slots__ = ("_budget_bytes", "_coming", "_granted_bytes", "_queue")

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._granted_bytes = 0
        self._coming: dict[int, _Coming] = {}
        self._queue: deque[int] = deque()

    def begin(self, stream: int, first: bytes, size: int) -> None:
        self._coming[stream] = _Coming(first, size)
        self._queue.append(stream)

    def grants(self) -> list[bytes]:
        """WINDOW frames for the bodies that there is room for now, first come first served."""
        out: list[bytes] = []
        while self._queue:
            coming = self._coming[self._queue[0]]
            if self._granted_bytes and self._granted_bytes + coming.size > self._budget_bytes:
                break
            self._granted_bytes += coming.size
            # Not filled with zeros; huge pages where it is large.
            coming.room = np.empty(coming.size, np.uint8).data
            coming.room[: coming.at] = coming.first
            coming.first = b""
            out.append(window_frame(self._queue.popleft(), coming.size - coming.at))
        return out

    def add(self, stream: int, part: memoryview) -> memoryview | None:
        """The whole body once it is complete. Streams that are over are ignored. Raises PeerFault
        for more than was granted."""
        coming = self._coming.get(stream)
        if coming is None:
            return None
        end = coming.at + len(part)
        if coming.room is None or end > coming.size:
            raise PeerFault(f"more of a body came on stream {stream} than was granted")
        coming.room[coming.at : end] = part
        coming.at = end
        return coming.room if end == coming.size and len(part) else None

    def end(self, stream: int) -> bool:
        """The body is not needed any more; may others be granted now?"""
        coming = self._coming.pop(stream, None)
        if coming is None:
            return False
        if coming.room is None:
            self._queue.remove(stream)
        else:
            self._granted_bytes -= coming.size
        return bool(self._queue)
