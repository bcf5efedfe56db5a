"""A watched folder of this machine: lists what lies in it, one entry a model, stamps the state of
each, and reads it.

Tells entries by their names alone.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from shoal.domain.errors import InvalidSpecification, ShoalError, ShuttingDown
from shoal.storage.declare import Elsewhere, Sources
from shoal.storage.digest import ContentMemory
from shoal.storage.entry import Outcome, read_entry
from shoal.storage.files import Stamp, ignored, readable_name, reading, stamp
from shoal.storage.formats import FormatFinder
from shoal.storage.grouping import Grouping
from shoal.storage.layout import is_model
from shoal.storage.names import shown
from shoal.storage.notices import Notices
from shoal.storage.uri import is_remote


def origin_of(given: str) -> str:
    """What records of a watched folder's models name it. given: its path or URI."""
    name = shown(given.rstrip("/")) if is_remote(given) else readable_name(Path(given).absolute())
    return f"folder:{name}"


class Children:
    """The models in `path`; or the one model that `path` is, which is decided at the first look
    and stays. See `folder.Watched`."""

    def __init__(
        self, path: Path, finder: FormatFinder, elsewhere: Elsewhere | None = None
    ) -> None:
        self.path = path.absolute()
        self.name = readable_name(self.path)
        self.origin = origin_of(str(path))
        self.single: bool | None = None
        self.identity: tuple[int, int] | None = None
        self._beside: dict[str, tuple[Path, ...]] = {}  # what else changes an entry, by entry
        self._stopping = threading.Event()
        self._finder = finder
        self._sources = Sources(
            finder, ContentMemory(self._go_on).read, elsewhere=elsewhere)
        self._grouping = Grouping(finder)

    async def listen(self, notices: Notices) -> None:
        await notices.listen(self.path, self.identity)

    def uri_of(self, entry: str) -> str:
        return str(self._path_of(entry))

    def _path_of(self, entry: str) -> Path:
        return self.path if self.single else self.path / entry

    def read(self, entry: str, registered_at: float) -> Outcome:
        outcome = read_entry(entry, self._path_of(entry), self._sources, origin=self.origin,
                             registered_at=registered_at)
        if outcome.beside:
            self._beside[entry] = outcome.beside
        elif not outcome.changed:
            self._beside.pop(entry, None)
        return outcome

    def forget(self, entry: str) -> None:
        self._beside.pop(entry, None)

    def stop(self, *, now: bool) -> None:
        if now:
            self._stopping.set()
        else:
            self._stopping.clear()

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise ShuttingDown(f"{self.path} is not read any further")

    def default_name(self, entry: str) -> str:
        """What the model is called when nothing in it says otherwise."""
        if self.single and self.path.is_dir():
            return entry
        return self._grouping.default_name(entry)

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
        entries = self._grouping.entries(present)
        absent = known if only is None else present
        found: dict[str, Stamp | None] = {
            entry: stamp(self.path / entry, *(self.path / name for name in attached),
                         *self._beside.get(entry, ()))
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
        names = {each for name in only for each in self._grouping.group(name) if not ignored(each)}
        return {
            name: os.path.isdir(path) if os.path.lexists(path := self.path / name) else None
            for name in sorted(names)
        }

    def _single_beside(self) -> list[Path]:
        if self.path.is_dir():
            beside = []
        else:
            beside = [self.path.with_name(name) for name in self._grouping.beside(self.path.name)]
        return [*(p for p in beside if os.path.lexists(p)),
                *self._beside.get(self.path.name, ())]
