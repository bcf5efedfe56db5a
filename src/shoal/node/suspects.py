"""Which revisions are not loaded by themselves, because processes died while they loaded them.

Kept beside the registry's file, for all processes that use the folder, and those that come after
them. Once may be chance: the revision is tried again, and no other suspect beside it. The second
time it is not, nor when the kernel says that memory ran out while nothing else was being loaded.
Who loads it by hand has it tried once more; a load that succeeds ends the suspicion, and a new
revision has none. Must not know how loads are made.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from shoal.domain.errors import LoadFailed
from shoal.domain.model import Revision
from shoal.node.under_way import Left, UnderWay, left_behind
from shoal.observability.logs import get_logger

FREE_DEATHS: Final = 1
"""After so many the revision is tried again by itself."""

_PATIENCE_S: Final = 60.0  # for another suspect's load, which may hang
_MOST: Final = 1_000  # remembered, the latest ones
_SUSPECTS: Final = "suspects.json"
_LOCK: Final = "suspects.lock"
_UNKNOWN: Final = "was killed or crashed"

log = get_logger("shoal.node")


class Suspect(msgspec.Struct, frozen=True):
    """deaths: of processes that loaded it. last_at: seconds since the epoch. how: the last one
    ended, in words that follow "the process". certain: nothing else can be to blame."""

    deaths: int
    last_at: float
    how: str
    certain: bool = False

    @property
    def is_refused(self) -> bool:
        return self.certain or self.deaths > FREE_DEATHS


_Suspects = dict[str, Suspect]
_DECODER: Final = msgspec.json.Decoder(_Suspects)


class Suspects:
    """Of the processes that use `folder`. how: how a process ended that is no more, by its number,
    as far as anybody told. Raises OSError. For threads."""

    def __init__(self, folder: Path, how: dict[int, str] | None = None) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._file = folder / _SUSPECTS
        self._known: _Suspects = {}
        self._read_at: tuple[int, int] | None = None  # the file that was read: time and number
        self.news = self._take_over(left_behind(folder), how or {})
        """What was found at the start, by revision."""
        self._under_way = UnderWay(folder)
        self._one = threading.Lock()

    def loading(self, revision: str) -> AbstractContextManager[None]:
        """While it is loaded: should the process die meanwhile, the next one knows."""
        return self._under_way.loading(revision)

    def close(self) -> None:
        self._under_way.close()

    @contextmanager
    def turn(self, revision: str) -> Iterator[None]:
        """Around `loading`: suspects go one by one, so that another death tells who it was."""
        if not self.is_suspect(revision):
            yield
            return
        has_it = self._one.acquire(timeout=_PATIENCE_S)
        try:
            yield
            self._forget(revision)
        finally:
            if has_it:
                self._one.release()

    # --- who is ---------------------------------------------------------------------------------

    def is_suspect(self, revision: str) -> bool:
        """Have processes died while they loaded it, since it was loaded last?"""
        self._refresh()
        return revision in self._known

    def refusal(self, revision: Revision) -> LoadFailed | None:
        """Why it is not loaded unless by hand; None: it may be."""
        self._refresh()
        found = self._known.get(revision.id)
        if found is None or not found.is_refused:
            return None
        return LoadFailed(
            f"{story(found)}; it is not loaded by itself again. Give the process more memory, or "
            "register the model with 'trust: isolated', so that it has a process of its own; then "
            f"load it by hand ('shoal load {revision.model}')")

    def refused(self) -> _Suspects:
        """All of them, by revision."""
        self._refresh()
        return {revision: each for revision, each in self._known.items() if each.is_refused}

    def forgive(self, revision: str) -> None:
        """It may be tried once more."""
        self._refresh()
        if revision in self._known:
            self._change(lambda known: _forgive(known, revision))

    def _forget(self, revision: str) -> None:
        """It was loaded."""
        self._change(lambda known: known.pop(revision, None))

    # --- the file -------------------------------------------------------------------------------

    def _take_over(self, left: list[Left], how: dict[int, str]) -> _Suspects:
        if not left:
            return {}
        news: _Suspects = {}

        def blame(known: _Suspects) -> None:
            for each in left:
                words = how.get(each.pid, _UNKNOWN)
                if each.for_memory:
                    words += " (the kernel has killed for want of memory: oom_kill)"
                for revision in each.revisions:
                    before = known.pop(revision, None)
                    known[revision] = news[revision] = Suspect(
                        deaths=1 + (before.deaths if before else 0), last_at=time.time(), how=words,
                        certain=each.for_memory and len(each.revisions) == 1)
            for oldest in list(known)[: max(len(known) - _MOST, 0)]:
                del known[oldest]

        self._change(blame)
        return news

    def _change(self, change: Callable[[_Suspects], object]) -> None:
        """One process at a time. What cannot be written counts here all the same."""
        lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._refresh()
            change(self._known)
            beside = self._folder / f".{_SUSPECTS}-{secrets.token_hex(4)}"
            beside.write_bytes(msgspec.json.encode(self._known))
            beside.rename(self._file)
            self._read_at = self._stamp()
        except OSError as error:
            log.warning("who ended processes cannot be remembered", file=str(self._file),
                        error=error.strerror or str(error))
        finally:
            os.close(lock)

    def _refresh(self) -> None:
        """What other processes found out counts here too."""
        stamp = self._stamp()
        if stamp == self._read_at:
            return
        self._read_at = stamp
        try:
            self._known = _DECODER.decode(self._file.read_bytes()) if stamp else {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("a file cannot be read and is ignored", file=str(self._file),
                        error=str(error))
            self._known = {}

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def _forgive(known: _Suspects, revision: str) -> None:
    if (found := known.get(revision)) is not None:
        known[revision] = msgspec.structs.replace(
            found, deaths=min(found.deaths, FREE_DEATHS), certain=False)


def story(suspect: Suspect) -> str:
    """What happened, without whose load it was."""
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(suspect.last_at))
    times = "" if suspect.deaths == 1 else f", {suspect.deaths} times in a row"
    return f"the process {suspect.how} while it loaded this model{times}, last at {at}"
