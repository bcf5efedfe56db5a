"""Messages of answers with their prefixes, compressed where their calls want that.

Source: grpc/doc/compression.md. Must not know calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final

from shoal.codecs import compression
from shoal.dataplane.grpc.framing import framed
from shoal.dataplane.grpc.message import Data, Reply

# From here on a message is compressed on a thread, as over HTTP.
THREAD_BYTES: Final = 4 * 1024


def pack(reply: Reply, encoding: bytes) -> Reply | Awaitable[Reply]:
    """A successful reply, its message with prefix; a large one that is compressed comes later."""
    if reply.packed:
        return reply
    size = sum(map(len, reply.parts))
    if encoding == b"identity" or size < compression.THRESHOLD_BYTES:
        return Reply(framed(reply.parts), metadata=reply.metadata, packed=True)
    if size < THREAD_BYTES:
        return Reply(framed(reply.parts, encoding), metadata=reply.metadata, packed=True)
    return _pack_apart(reply, encoding)


async def _pack_apart(reply: Reply, encoding: bytes) -> Reply:
    return Reply(await message(reply.parts, encoding), metadata=reply.metadata, packed=True)


async def message(parts: Sequence[Data], encoding: bytes) -> list[Data]:
    """A message with its prefix."""
    size = sum(map(len, parts))
    if encoding == b"identity" or size < compression.THRESHOLD_BYTES:
        return framed(parts)
    if size < THREAD_BYTES:
        return framed(parts, encoding)
    return await asyncio.to_thread(framed, parts, encoding)
