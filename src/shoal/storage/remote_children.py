"""A watched folder that lies elsewhere: lists what is below its URI, one entry a model, stamps the
state of each by what the place says of its files, and reads it.

Every look lists all of it; there are no notices. Must not know what kind of place it is.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from shoal.domain.errors import InvalidSpecification, ShoalError
from shoal.storage.children import origin_of
from shoal.storage.entry import Outcome, read_entry
from shoal.storage.fetching import Fetching, Found
from shoal.storage.files import Stamp, ignored
from shoal.storage.formats import FormatFinder
from shoal.storage.grouping import Grouping
from shoal.storage.layout import is_model
from shoal.storage.names import lone_name, shown
from shoal.storage.notices import Notices
from shoal.storage.places.place import Files, RemoteFile, Snapshot
from shoal.storage.stage import lay_out

_LOOKED_AT: Final = 2_000  # files by whose names it is told whether the URI is one model


class RemoteChildren:
    """The models below `uri`, or the one model that lies there, which is decided at the first look
    and stays. See `folder.Watched`."""

    def __init__(self, uri: str, fetching: Fetching, finder: FormatFinder) -> None:
        self.uri = uri.rstrip("/")
        self.name = shown(self.uri)
        self.origin = origin_of(uri)
        self._fetching = fetching
        self._finder = finder
        self._grouping = Grouping(finder)
        self._single: bool | None = None
        self._last: Found | None = None
        self._attached: dict[str, tuple[str, ...]] = {}

    async def listen(self, notices: Notices) -> None:
        """There are none."""

    def uri_of(self, entry: str) -> str:
        return self.uri if self._single else f"{self.uri}/{entry}"

    def default_name(self, entry: str) -> str:
        return self._grouping.default_name(entry)

    def forget(self, entry: str) -> None:
        """Nothing is remembered of it."""

    def stop(self, *, now: bool) -> None:
        """Downloads are ended by `Fetching.stop`."""

    def survey(self, only: Iterable[str] | None, known: Iterable[str] = ()
               ) -> Mapping[str, Stamp | None]:
        try:
            found = self._fetching.look(self.uri)
        except ShoalError as error:
            raise InvalidSpecification(f"{self.name} cannot be served: {error.message}") from error
        alone = bool(found.inside) or found.snapshot.is_lone
        if self._single is None:
            self._single = alone or self._is_model(found.snapshot)
        if not isinstance(found.place, Files) or not (
                found.place.nested or (self._single and not alone)):
            raise InvalidSpecification(
                f"{self.name} cannot be watched: its kind of place does not tell what changes in "
                "it; register its models instead (shoal register NAME URI)")
        self._last = found
        if self._single:
            return {lone_name(self.uri): _stamp(found.snapshot.files)}
        files = _by_first(found.snapshot.files)
        present = {name: any("/" in file.name for file in those) for name, those in files.items()}
        self._attached = self._grouping.entries(present)
        told: dict[str, Stamp | None] = {
            entry: _stamp([file for name in (entry, *attached) for file in files[name]])
            for entry, attached in self._attached.items()
        }
        told.update({entry: None for entry in known if entry not in told})
        return told

    def read(self, entry: str, registered_at: float) -> Outcome:
        found = self._part(entry)
        with self._fetching.staged_as(found, self._finder) as (path, sources):
            outcome = read_entry(
                entry, path, sources, origin=self.origin, registered_at=registered_at)
            if outcome.problem is None:
                return outcome
            return replace(outcome, problem=outcome.problem.replace(
                str(path), shown(self.uri_of(entry))))

    def _part(self, entry: str) -> Found:
        """What the last look found of the entry."""
        assert self._last is not None
        found, attached = self._last, self._attached.get(entry)
        if self._single or attached is None:
            return found
        files = found.snapshot.files
        inside = f"{entry}/"
        within = tuple(replace(file, name=file.name.removeprefix(inside))
                       for file in files if file.name.startswith(inside))
        if within:
            snapshot = Snapshot(f"{found.snapshot.uri}/{entry}", within, found.snapshot.version)
            return Found(found.place, snapshot, "")
        own = tuple(file for file in files if file.name in (entry, *attached))
        return Found(found.place, replace(found.snapshot, files=own), entry)

    def _is_model(self, snapshot: Snapshot) -> bool:
        """As its names tell: most is recognised by them, and what is not lies in folders."""
        with tempfile.TemporaryDirectory() as folder:
            lay_out(Path(folder), (file.name for file in snapshot.files[:_LOOKED_AT]))
            return is_model(Path(folder), self._finder)


def _by_first(files: Iterable[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """By the first part of their names, without those that belong to no model."""
    found = defaultdict(list)
    for file in files:
        parts = file.name.split("/")
        if not any(map(ignored, parts)):
            found[parts[0]].append(file)
    return found


def _stamp(files: Iterable[RemoteFile]) -> Stamp:
    digest = hashlib.blake2b(digest_size=16)
    newest_s = 0.0
    for file in files:
        newest_s = max(newest_s, file.modified_s or 0.0)
        digest.update(f"{file.name}\0{file.size_bytes}\0{file.tag or file.sha256}\0".encode())
    return Stamp(digest.digest(), newest_s)
