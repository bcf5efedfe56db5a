"""How a reader of frames says that the peer is at fault; never leaves this package.

A fault of the connection ends it with GOAWAY, one of a stream resets that alone (RFC 9113, 5.4).
"""

from __future__ import annotations


class ConnectionFault(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFault(Exception):
    def __init__(self, stream: int, code: int, reason: str) -> None:
        super().__init__(reason)
        self.stream = stream
        self.code = code
        self.reason = reason
