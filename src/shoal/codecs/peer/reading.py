"""Cuts what a socket gives into frames. Must not know what they mean, nor sockets."""

from __future__ import annotations

from typing import Final, TypeAlias

from shoal.codecs.peer.frames import (
    DATA,
    HEAD,
    HEAD_BYTES,
    LAST_KIND,
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    PeerFault,
)

Cut: TypeAlias = tuple[int, int, int, int]  # kind, stream, where its payload begins and ends

_unpack: Final = HEAD.unpack_from


class FrameReader:
    """Of one direction of a link. Holds at most one frame that is not complete, and nothing of DATA
    and of kinds it does not know: their payloads are handed on as they come, in any parts.

    Until `trust` is called frames may be only as long as an introduction.
    """

    __slots__ = ("_left", "_most", "_need", "_passing", "_rest")

    def __init__(self) -> None:
        self._most = MAX_HELLO_BYTES
        self._rest = bytearray()  # the beginning of a frame
        self._need = 0  # how long `_rest` must be to go on
        self._passing = (0, 0)  # kind and stream of the payload that is handed on
        self._left = 0  # how much of it is to come

    def trust(self) -> None:
        self._most = MAX_FRAME_BYTES

    def cut(self, data: bytes) -> tuple[bytes, list[Cut]]:
        """Bytes, and the frames in them. Raises PeerFault for a frame that is too long."""
        frames: list[Cut] = []
        at = 0
        if self._left:
            at = min(self._left, len(data))
            self._left -= at
            frames.append((*self._passing, 0, at))
        elif self._rest:
            if len(self._rest) + len(data) < self._need:
                self._rest += data
                return b"", frames
            data = b"".join((self._rest, data))
            self._rest = bytearray()
        size = len(data)
        while size - at >= HEAD_BYTES:
            length, kind, stream = _unpack(data, at)
            if length > self._most:
                raise PeerFault(
                    f"a frame of {length} bytes was announced where {self._most} are allowed; "
                    "is this the address of another program?"
                )
            start = at + HEAD_BYTES
            end = start + length
            if end > size:
                if kind == DATA or kind > LAST_KIND:
                    frames.append((kind, stream, start, size))
                    self._passing = kind, stream
                    self._left = end - size
                    return data, frames
                self._need = HEAD_BYTES + length
                self._rest += memoryview(data)[at:]
                return data, frames
            frames.append((kind, stream, start, end))
            at = end
        if at < size:
            self._need = HEAD_BYTES
            self._rest += memoryview(data)[at:]
        return data, frames
