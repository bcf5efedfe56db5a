"""Lists what lies in a watched folder, one entry a model, and stamps the state of each.

Tells entries by their names alone; opens no file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from shoal.domain.errors import InvalidSpecification, ShoalError
from shoal.domain.external_data import EXTERNAL_DATA
from shoal.storage.artifact import is_text
from shoal.storage.files import Stamp, ignored, reading, stamp
from shoal.storage.formats import FormatFinder, known_suffixes, without_suffix
from shoal.storage.layout import is_model
from shoal.storage.model_yaml import SUFFIXES as DESCRIPTION_SUFFIXES


class Children:
    """The models in `path`; or the one model that `path` is, which is decided at the first look
    and stays. `watch_beside` has further paths by entry whose change is the entry's."""

    def __init__(self, path: Path, finder: FormatFinder) -> None:
        self.path = path
        self.single: bool | None = None
        self.identity: tuple[int, int] | None = None
        self.watch_beside: dict[str, tuple[Path, ...]] = {}
        self._finder = finder
        self._suffixes = known_suffixes(finder)

    def path_of(self, entry: str) -> Path:
        return self.path if self.single else self.path / entry

    def default_name(self, entry: str) -> str:
        """What the model is called when nothing in it says otherwise."""
        if self.single and self.path.is_dir():
            return entry
        return without_suffix(entry, (*self._suffixes, *DESCRIPTION_SUFFIXES))

    def group(self, name: str) -> set[str]:
        """Every entry whose state a change of the file `name` may touch."""
        owner = next((name.removesuffix(e) for e in EXTERNAL_DATA if name.endswith(e)), name)
        stem = without_suffix(owner, (*self._suffixes, *DESCRIPTION_SUFFIXES))
        return {name, owner, stem} | {
            stem + suffix for suffix in (*self._suffixes, *DESCRIPTION_SUFFIXES)
        }

    def survey(self, only: Iterable[str] | None, known: Iterable[str] = ()
               ) -> dict[str, Stamp | None]:
        """The state of every entry, or of those that `only` touches; None for the absent ones, when
        all are looked at for those among `known`. Blocking.

        Raises InvalidSpecification when the folder cannot be looked at, or looks unmounted.
        """
        try:
            with reading(self.path):
                self._identify()
                if self.single is None:
                    self.single = is_model(self.path, self._finder)
                if self.single:
                    beside = self._single_beside()
                    return {self.path.name: stamp(self.path, *beside)}
                present: Mapping[str, bool | None] = (
                    self._list() if only is None else self._exist(only)
                )
        except ShoalError as error:
            raise InvalidSpecification(f"{self.path} cannot be served: {error.message}") from error
        entries = self._entries(present)
        absent = known if only is None else present
        found: dict[str, Stamp | None] = {
            entry: stamp(self.path / entry, *(self.path / name for name in attached),
                         *self.watch_beside.get(entry, ()))
            for entry, attached in entries.items()
        }
        found.update({entry: None for entry in absent if entry not in entries})
        return found

    def _identify(self) -> None:
        """An unmounted folder often stays as an empty one: nobody meant to remove every model."""
        info = os.stat(self.path)
        identity = info.st_dev, info.st_ino
        if not stat.S_ISDIR(info.st_mode):
            return
        if self.identity not in (None, identity) and not os.listdir(self.path):
            raise InvalidSpecification(
                "it was replaced by an empty folder, as when it is unmounted; its models are kept "
                "until there are files in it again, or until a restart"
            )
        self.identity = identity

    def _list(self) -> dict[str, bool]:
        with os.scandir(self.path) as entries:
            return {e.name: e.is_dir() for e in entries if not ignored(e.name)}

    def _exist(self, only: Iterable[str]) -> dict[str, bool | None]:
        """As `_list`, of the named ones and those they touch; None for what is not there."""
        names = {each for name in only for each in self.group(name) if not ignored(each)}
        return {
            name: os.path.isdir(path) if os.path.lexists(path := self.path / name) else None
            for name in sorted(names)
        }

    def _entries(self, present: Mapping[str, bool | None]) -> dict[str, tuple[str, ...]]:
        """Entries, sorted, each with the names of files beside it that belong to it."""
        stems = {without_suffix(name, self._suffixes) for name, is_folder in present.items()
                 if is_folder is False and not name.endswith(DESCRIPTION_SUFFIXES)}
        return {
            name: () if present[name] else self._attached(name, present)
            for name in sorted(present)
            if present[name] is not None and (
                present[name] or not self._belongs_elsewhere(name, stems, present)
            )
        }

    def _belongs_elsewhere(self, name: str, stems: set[str], present: Mapping[str, bool | None]
                           ) -> bool:
        """Is the file `name` a description of, or data beside, another entry, or none's?"""
        if any(name == stem + s for s in DESCRIPTION_SUFFIXES
               if (stem := name.removesuffix(s)) in stems):
            return True
        if any(present.get(name.removesuffix(e)) is False
               for e in EXTERNAL_DATA if name.endswith(e)):
            return True
        return is_text(name) and not name.lower().endswith(self._suffixes)

    def _attached(self, name: str, present: Mapping[str, bool | None]) -> tuple[str, ...]:
        return tuple(each for each in self._beside(name) if present.get(each) is not None)

    def _beside(self, name: str) -> list[str]:
        stem = without_suffix(name, self._suffixes)
        return [*(stem + s for s in DESCRIPTION_SUFFIXES if stem + s != name),
                *(name + e for e in EXTERNAL_DATA)]

    def _single_beside(self) -> list[Path]:
        if self.path.is_dir():
            beside = []
        else:
            beside = [self.path.with_name(name) for name in self._beside(self.path.name)]
        return [*(p for p in beside if os.path.lexists(p)),
                *self.watch_beside.get(self.path.name, ())]
