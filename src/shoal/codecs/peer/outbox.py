"""What one side of a link has to send. Must not know sockets, nor what the frames are about."""

from __future__ import annotations

from shoal.codecs.peer.bodies import Outflow


class Outbox:
    """Small frames go first and all at once, the rests of bodies behind them in parts.

    frame_bytes: of the small frames. flow: the rests; take them there.
    """

    __slots__ = ("_frames", "flow", "frame_bytes")

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self.frame_bytes = 0
        self.flow = Outflow()

    def __bool__(self) -> bool:
        """Is there something that can be sent now?"""
        return bool(self._frames) or self.flow.due

    @property
    def size_bytes(self) -> int:
        """All that is kept to be sent, rests without credit included."""
        return self.frame_bytes + self.flow.size_bytes

    def add(self, frame: bytes) -> None:
        self._frames.append(frame)
        self.frame_bytes += len(frame)

    def take(self) -> bytes:
        """All small frames, as one piece: one write, and one record under TLS."""
        frames = self._frames
        if not frames:
            return b""
        self._frames = []
        self.frame_bytes = 0
        return frames[0] if len(frames) == 1 else b"".join(frames)
