"""What a link takes upon itself. Each side has its own; the other finds out by being refused."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one direction of one link.

    max_streams: requests in flight.
    max_body_bytes: of one request's or reply's body.
    max_held_bytes: of bodies that are collected or handled, and as much of those that wait to be
        sent; one that is larger than this passes when it is the only one.
    max_queued_bytes: of small frames that wait because the other side does not read.
    """

    max_streams: int = 4096
    max_body_bytes: int = 1024 * _MIB
    max_held_bytes: int = 256 * _MIB
    max_queued_bytes: int = 16 * _MIB
