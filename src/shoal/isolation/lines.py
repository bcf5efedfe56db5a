"""What a process prints, from bytes as they come to lines of text. Must not know who prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_MAX_BYTES: Final = 8 * 1024  # of a line: a longer one is cut


class Lines:
    """on_line: called with each line that says something, without the blanks around it."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._unread = b""

    def add(self, data: bytes) -> None:
        """What was printed next."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        if len(self._unread) > _MAX_BYTES:
            lines, self._unread = [*lines, self._unread], b""
        for line in lines:
            self._tell(line)

    def end(self) -> None:
        """There is no more: the last line may have no end of its own."""
        self._tell(self._unread)

    def _tell(self, line: bytes) -> None:
        if text := line[:_MAX_BYTES].decode(errors="replace").strip():
            self._on_line(text)
