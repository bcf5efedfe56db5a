"""The named credentials of the registry, as a source of `credentials.Credentials`: what is known of
them now, and how a record is written.

    {            JSON: the type, and the fields by the names of `fields`
    byte 1       the same, encrypted: see `sealing`

Knows no store: whoever watches it tells of changes. A record belongs to its name: an encrypted one
that is put under another is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from shoal.domain.errors import InvalidSpecification
from shoal.storage.places.credentials import Access
from shoal.storage.places.sealing import Keys

_PLAIN: Final = b"{"
_SEALED: Final = b"\x01"

Raw = Mapping[str, object] | InvalidSpecification


class _Record(msgspec.Struct):
    type: str
    fields: dict[str, str]


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(_Record)


class StoredSource:
    """`credentials.Source`, for any thread. keys: what they are encrypted with; none: not at
    all."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._lock = threading.Lock()
        self._entries: Mapping[str, Raw] = MappingProxyType({})
        self._sealed: frozenset[str] = frozenset()

    def describe(self) -> str:
        return "the registry"

    def read(self) -> Mapping[str, Raw]:
        """All together, as they were at one moment; does not change."""
        return self._entries

    def is_encrypted(self, name: str) -> bool:
        return name in self._sealed

    def record(self, access: Access) -> bytes:
        """What the registry keeps of it."""
        plain = _ENCODER.encode(_Record(access.type, dict(access.values)))
        if not self._keys:
            return plain
        return _SEALED + self._keys.seal(plain, _about(access.name))

    def update(self, changes: Mapping[str, bytes | None]) -> list[str]:
        """Records by name; None: there is none any more. Returns what is wrong with them, in
        sentences."""
        read = {name: self._raw(name, value) for name, value in changes.items()
                if value is not None}
        sealed = {name for name, value in changes.items()
                  if value is not None and value.startswith(_SEALED)}
        with self._lock:
            kept = {name: raw for name, raw in self._entries.items() if name not in changes}
            self._entries = MappingProxyType(kept | read)
            self._sealed = (self._sealed - changes.keys()) | sealed
        return [raw.message for raw in read.values() if isinstance(raw, InvalidSpecification)]

    def _raw(self, name: str, value: bytes) -> Raw:
        what = f"credentials {name!r} in the registry"
        try:
            if value.startswith(_SEALED):
                value = self._keys.open(value[1:], _about(name), what)
            elif not value.startswith(_PLAIN):
                return InvalidSpecification(
                    f"{what} are written in no form that this release knows; set them again")
            record = _DECODER.decode(value)
        except InvalidSpecification as error:
            return error
        except (msgspec.DecodeError, UnicodeDecodeError):  # its text could show a value
            return InvalidSpecification(f"{what} are not readable; set them again")
        return MappingProxyType({**record.fields, "type": record.type})


def _about(name: str) -> bytes:
    return f"shoal/credentials/{name}".encode()
