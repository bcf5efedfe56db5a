"""When models were last used and how large they were: what orders loading after a restart.

Kept packed, some 50 bytes a model, and saved in the same form; what earlier releases saved as JSON
is read as well. Knows no store.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Final

import msgspec

from shoal.node.records import pack_digest, unpack_digest

_PACKED: Final = b"\x01"


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """last_used: seconds since the epoch; 0: loaded, but never used. size_bytes: of the copy of
    `artifact_digest`; accelerator_bytes: beside them, where it lay on an accelerator."""

    last_used: float
    artifact_digest: str = ""
    size_bytes: int = 0
    accelerator_bytes: int = 0


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """digest: of a SHA-256; None: `other` is the whole of it."""

    last_used: float
    size_bytes: int
    digest: bytes | None
    other: str
    accelerator_bytes: int = 0


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Packed)
_JSON_DECODER: Final = msgspec.json.Decoder(Usage)


def pack(usage: Usage) -> bytes:
    digest = pack_digest(usage.artifact_digest)
    other = usage.artifact_digest if digest is None else ""
    packed = _Packed(
        usage.last_used, usage.size_bytes, digest, other, usage.accelerator_bytes)
    return _PACKED + _ENCODER.encode(packed)


def unpack(value: bytes) -> Usage:
    """Raises msgspec.DecodeError, which says what is wrong."""
    if not value.startswith(_PACKED):
        return _JSON_DECODER.decode(value)
    packed = _DECODER.decode(memoryview(value)[1:])
    digest = packed.other if packed.digest is None else unpack_digest(packed.digest)
    return Usage(packed.last_used, digest, packed.size_bytes, packed.accelerator_bytes)


class UsageTable(MutableMapping[str, Usage]):
    """By name of the model. What is put in as it was stored must be readable."""

    __slots__ = ("_packed",)

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> Usage:
        return unpack(self._packed[name])

    def __setitem__(self, name: str, usage: Usage) -> None:
        self._packed[name] = pack(usage)

    def __delitem__(self, name: str) -> None:
        del self._packed[name]

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def stored(self, name: str) -> bytes:
        """What is to be stored of `name`, which must be there."""
        return self._packed[name]
