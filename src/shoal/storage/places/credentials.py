"""Who to be at a place: credentials by name, from files or wherever else they are kept.

Values leave an `Access` only by asking for them: no text of it, and no error here, shows any. Knows
nothing of places; None instead of an Access means the identity that the process has anyway.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from shoal.domain.errors import InvalidSpecification
from shoal.storage.files import Stamp, readable_name, stamp
from shoal.storage.places.fields import TYPES, fields_of, secret_types, type_of

_MAX_BYTES: Final = 1024 * 1024
_DEFAULT: Final = "default"


class Access:
    """Credentials. name: of the entry they come from. type: one of `fields.TYPES`. Equal ones have
    equal values, and may share a connection."""

    __slots__ = ("_values", "name", "type")

    def __init__(self, name: str, type: str, values: Mapping[str, str]) -> None:  # noqa: A002
        self.name: Final = name
        self.type: Final = type
        self._values: Final = MappingProxyType(dict(values))

    @property
    def values(self) -> Mapping[str, str]:
        """The fields that are set, by the names of `fields`."""
        return self._values

    def get(self, field: str) -> str:
        """The value of a field, empty where it is not set."""
        return self._values.get(field, "")

    @property
    def is_default(self) -> bool:
        """Was it taken because no name was given?"""
        return self.name in (_DEFAULT, f"{_DEFAULT}_{self.type}")

    def __repr__(self) -> str:
        return f"Access(name={self.name!r}, type={self.type!r}, values=…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Access) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> str:
        raise TypeError("credentials are not written anywhere")

    def _key(self) -> tuple[object, ...]:
        return self.name, self.type, tuple(sorted(self._values.items()))


class Source(Protocol):
    """Where named credentials are kept: a file, a registry."""

    def read(self) -> Mapping[str, Mapping[str, object] | InvalidSpecification]:
        """All that are there now, by name: the JSON object of each, as in a `storage-config`, or
        why it cannot be used. May be called often. Raises InvalidSpecification when nothing can be
        read."""

    def describe(self) -> str:
        """Names the source in messages."""


class Credentials:
    """The credentials of several sources; the first that has a name is asked for it."""

    def __init__(self, sources: Sequence[Source] = ()) -> None:
        self.sources: Final = tuple(sources)

    def get(self, name: str | None, type: str) -> Access | None:  # noqa: A002
        """The credentials called `name`. name None: those called `default_<type>`, else `default`
        if they are of this type; None where there are none.

        Raises InvalidSpecification for unknown names, another type, and what cannot be read.
        """
        if name is not None:
            found = self._find(name)
            if found is None:
                raise InvalidSpecification(
                    f"credentials {name!r} are not known; known are "
                    f"{', '.join(self.names()) or 'none'}")
            if found.type != type:
                raise InvalidSpecification(
                    f"credentials {name!r} are of the type {found.type!r}, but {type!r} is needed "
                    f"here; known are {', '.join(self.names())}")
            return found
        special = self._find(f"{_DEFAULT}_{type}")
        if special is not None:
            return special
        general = self._find(_DEFAULT)
        return general if general is not None and general.type == type else None

    def names(self) -> list[str]:
        """All names, sorted. Raises InvalidSpecification when a source cannot be read."""
        return sorted({name for source in self.sources for name in source.read()})

    def _find(self, name: str) -> Access | None:
        for source in self.sources:
            raw = source.read().get(name)
            if isinstance(raw, InvalidSpecification):
                raise InvalidSpecification(raw.message)  # the source keeps it, without a traceback
            if raw is not None:
                return access_of(name, raw, f"{source.describe()}: key {name!r}")
        return None


def access_of(name: str, raw: Mapping[str, object], where: str) -> Access:
    """The credentials that a JSON object of a `storage-config` stands for. where: names it in
    messages. Raises InvalidSpecification."""
    kind = type_of(raw, where)
    meant = name.removeprefix(f"{_DEFAULT}_")
    if meant != name and meant in TYPES and meant != kind:
        raise InvalidSpecification(
            f"{where}: the field 'type' is {kind!r}, which is not what the key is for")
    return Access(name, kind, fields_of(kind, raw, where))


class FileSource:
    """KServe's and ModelMesh's `storage-config`, as a file or as a mounted secret; or one of
    KServe's secrets. Blocking; changes on disk are seen at the next call.

    A file holds a JSON object, each key of which is a name with an object, or with the JSON text of
    one. A folder has a file for each name, with that JSON text. Where the keys are those of a
    KServe secret (`AWS_ACCESS_KEY_ID`, …) instead, the whole is the credentials `default_<type>`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: tuple[Stamp, dict[str, Mapping[str, object] | InvalidSpecification]] | None
        self._known = None

    def describe(self) -> str:
        return f"credentials file {readable_name(self._path)}"

    def read(self) -> Mapping[str, Mapping[str, object] | InvalidSpecification]:
        with self._lock:
            now = stamp(self._path)
            if now is None:
                raise InvalidSpecification(
                    f"{self.describe()} does not exist; create it, or correct the path")
            if self._known is None or self._known[0] != now:
                self._known = now, dict(self._entries(self._texts()))
            return self._known[1]

    def _texts(self) -> dict[str, object]:
        try:
            if self._path.is_dir():
                return {entry.name: _read(Path(entry.path)).strip()
                        for entry in sorted(os.scandir(self._path), key=lambda e: e.name)
                        if not entry.name.startswith(".") and entry.is_file()}
            whole = json.loads(_read(self._path))
        except OSError as error:
            raise InvalidSpecification(
                f"{self.describe()} cannot be read: {error.strerror or error}; give the user that "
                "runs Shoal read access") from error
        except ValueError as error:
            raise self._no_json(error) from None
        if not isinstance(whole, dict):
            raise InvalidSpecification(
                f"{self.describe()} must hold a JSON object with a key for each of the credentials")
        return whole

    def _no_json(self, error: ValueError, key: str = "") -> InvalidSpecification:
        at = f" at line {error.lineno}, column {error.colno}" if isinstance(
            error, json.JSONDecodeError) else ""
        named = f"{self.describe()}: key {key!r}" if key else self.describe()
        return InvalidSpecification(f"{named} is no JSON{at}; correct it")

    def _entries(self, texts: Mapping[str, object]
                 ) -> Iterator[tuple[str, Mapping[str, object] | InvalidSpecification]]:
        own = secret_types(texts)
        for kind in own:
            yield f"{_DEFAULT}_{kind}", {**texts, "type": kind}
        if own:
            return
        for name, value in texts.items():
            yield name, self._entry(name, value)

    def _entry(self, name: str, value: object) -> Mapping[str, object] | InvalidSpecification:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                return self._no_json(error, name)
        if not isinstance(value, dict):
            return InvalidSpecification(
                f"{self.describe()}: key {name!r} must hold a JSON object with the field 'type'")
        return value


def _read(path: Path) -> str:
    """Raises OSError and ValueError."""
    with open(path, "rb") as source:
        data = source.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError
    return data.decode()
