"""Brings the files of a snapshot here: in parallel parts, again where that may help, checked, and
from where it was after an interruption.

While it is under way all lies in a folder beside the target, `<target>.partial`, where a file is
known by what it is (name, size, tag), not by its place in a list (`partial`). So whoever comes
next, another process included, takes what is there, and a file that has changed begins anew. Must
not know what kind of place it is, nor the disk cache.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidArtifact,
    PlaceUnavailable,
)
from shoal.storage.names import in_words, lone_name, shown, why_not_confined, why_not_together
from shoal.storage.partial import Partial
from shoal.storage.places.place import Files, RemoteFile, Snapshot
from shoal.storage.writing import (
    Inside,
    check_room,
    free_bytes,
    sync_files,
    sync_folder,
    write_all,
    writing,
)

_CHECK_EVERY_S: Final = 0.25  # of a wait
_CHUNK_BYTES: Final = 1024 * 1024
_SETTLED_AT_ONCE: Final = 256  # files that were written are lost at most when the process is killed


@dataclass(frozen=True, slots=True)
class Options:
    """How a download is done.

    threads: connections at once. part_bytes: larger files come in parts of this size.
    attempts: how often in a row a part may fail without bringing anything of worth.
    first_wait_s, longest_wait_s: between attempts, doubled with each, and drawn from the upper half
        of that so that many do not come back at once.
    least_bytes_s, window_s: a connection that brings fewer bytes a second than this, over a window
        of so many seconds, is given up, which counts as a failure.
    copies: how often a file whose length or digest was wrong is read at all.
    looks: how often the place may be asked anew which files there are, because they changed.
    go_on: called between chunks and during waits, by several threads; what it raises ends the
        download, which can be gone on with later.
    clock, sleep, random, free: time in seconds that only grows, a wait, uniform in [0, 1), and the
        room on a folder's disk: arguments for tests.
    """

    threads: int = 8
    part_bytes: int = 16 * 1024 * 1024
    attempts: int = 6
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0
    least_bytes_s: float = 1024.0
    window_s: float = 30.0
    copies: int = 3
    looks: int = 3
    go_on: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    free: Callable[[Path], int] = free_bytes


def download(
    place: Files,
    snapshot: Snapshot,
    into: Path,
    options: Options | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    look_again: Callable[[], Snapshot] | None = None,
) -> Snapshot:
    """Write the files of `snapshot` into the folder `into`, which is made if it is missing; a lone
    file by `lone_name`. Blocking. What is there under other names stays.

    progress: told the bytes that are here and those of all files, None where the place does not
        say; called by one thread at a time.
    look_again: lists the files anew when they changed; without it the place is asked for those of
        the same names.
    Returns the snapshot that was downloaded: `snapshot`, or what a later look found.

    Raises ArtifactChanged when the files do not stay the same for long enough, PlaceUnavailable
    when the place does not give them, or others than it says; NoRoom when the disk has none;
    InvalidArtifact for names that cannot be written; what the place raises beyond that.
    """
    chosen = options or Options()
    looks = 0
    while True:
        try:
            _Download(place, snapshot, into, chosen, progress).run()
            return snapshot
        except (ArtifactChanged, ArtifactMissing) as error:
            looks += 1
            if looks > chosen.looks:
                raise ArtifactChanged(
                    f"{shown(snapshot.uri)} changed while it was downloaded, {looks} times in a "
                    f"row; it is downloaded once it is still: {error.message}"
                ) from error
            _pause(chosen, looks, chosen.go_on)
        snapshot = look_again() if look_again is not None else _same_files(place, snapshot)


def local_names(snapshot: Snapshot) -> list[str]:
    """What the files are called below the folder that they come to, in the same order. Raises
    InvalidArtifact for names that lead out of it, or that no files can have together."""
    uri = shown(snapshot.uri)
    names = [file.name or lone_name(snapshot.uri) for file in snapshot.files]
    for name in names:
        if reason := why_not_confined(name):
            raise InvalidArtifact(f"{uri}: {in_words(name)} {reason}; rename it")
    if reason := why_not_together(names):
        raise InvalidArtifact(f"{uri}: {reason}; rename one of them")
    return names


def _same_files(place: Files, before: Snapshot) -> Snapshot:
    """What the files of a snapshot are now."""
    now = place.look(before.uri)
    files = {file.name: file for file in now.files}
    gone = [file.name for file in before.files if file.name not in files]
    if gone:
        raise ArtifactChanged(
            f"{shown(before.uri)} changed while it was downloaded: {in_words(gone[0])} is not "
            "there any more; it is downloaded once it is still")
    return replace(now, files=tuple(files[file.name] for file in before.files))


class _Stopped(Exception):
    """Another part failed for good."""


class _Unusable(Exception):
    """What came is not what was asked for."""


@dataclass(slots=True)
class _Pace:
    """Notices a connection that is alive, but brings nearly nothing."""

    options: Options
    since: float = field(init=False)
    in_window: int = 0

    def __post_init__(self) -> None:
        self.since = self.options.clock()

    def add(self, count: int) -> None:
        """Raises PlaceUnavailable."""
        self.in_window += count
        passed_s = self.options.clock() - self.since
        if passed_s < self.options.window_s:
            return
        if self.in_window < self.options.least_bytes_s * passed_s:
            raise PlaceUnavailable(
                f"only {self.in_window:,} bytes came within {passed_s:.0f} s")
        self.since, self.in_window = self.options.clock(), 0


class _Download:
    """One snapshot's way into `into`."""

    def __init__(self, place: Files, snapshot: Snapshot, into: Path, options: Options,
                 progress: Callable[[int, int | None], None]) -> None:
        self.place = place
        self._snapshot = snapshot
        self._into = into
        self.options = options
        self._progress = progress
        self._uri = shown(snapshot.uri)
        self._partial = into.with_name(f"{into.name}.partial")
        self._lock = threading.Lock()
        self._done = 0
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._written: list[Partial] = []  # right, but not yet known to be on disk

    def run(self) -> None:
        with writing(self._into.parent):
            self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
            jobs = self._jobs()
            self._clear_other_states(jobs)
            ranges = self.place.ranges
            self._done = sum(
                job.plan(self.options.part_bytes if ranges else 0) for job in jobs)
            self._check_room()
            self.tell(0)
            missing = [job for job in jobs if job.left]
            try:
                while missing:
                    missing = self._round(missing)
            finally:
                _settle(self._written)
            self._move_in(jobs)

    def _jobs(self) -> list[Partial]:
        files = self._snapshot.files
        return [Partial(file, name, self._mark(file), self._partial)
                for file, name in zip(files, local_names(self._snapshot), strict=True)]

    def _mark(self, file: RemoteFile) -> str:
        """Other content, other mark; where that cannot be told, a mark for this time only."""
        known = file.sha256 or file.tag or self._snapshot.version or os.urandom(16).hex()
        which, state = f"{self._uri}\0{file.name}", f"{file.size_bytes}\0{known}"
        return f"{_hashed(which)}-{_hashed(state)}"

    def _clear_other_states(self, jobs: Sequence[Partial]) -> None:
        """Remove what was left of these files as they were before."""
        marks = {job.whole.name.partition("-")[0]: job.whole.name for job in jobs}
        for path in self._partial.iterdir():
            which, _, _ = path.name.partition("-")
            if which in marks and path.name.partition(".")[0] != marks[which]:
                path.unlink()

    def _check_room(self) -> None:
        total = self._snapshot.size_bytes
        if total is not None:
            check_room(self._partial, total - self._done, self.options.free(self._partial))

    def _round(self, jobs: list[Partial]) -> list[Partial]:
        """Read all that is missing. Returns the files that turned out wrong, to be read again."""
        parts = [(job, part) for job in jobs
                 for part in sorted(job.left, key=lambda each: each[0])]
        threads = min(self.options.threads, len(parts))
        with ThreadPoolExecutor(threads, thread_name_prefix="download") as pool:
            futures = [pool.submit(self._part, job, part) for job, part in parts]
            try:
                ended = [future.result() for future in as_completed(futures)]
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                if self._failed is not None:
                    raise self._failed from None
                raise
        return [job for job in ended if job is not None]

    def _part(self, job: Partial, part: tuple[int, int | None]) -> Partial | None:
        """Read one part, and finish the file if it was the last one. Returns the job where its
        file has to be read again."""
        try:
            self.check()
            descriptor = os.open(job.new, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                sha256 = _Part(self, job, part, descriptor).read()
                if part != (0, job.file.size_bytes):
                    os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if part == (0, job.file.size_bytes):
                job.sha256 = sha256
            return job if job.note(part) and not self._finish(job) else None
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Nothing more is begun, and what failed first is what is told."""
        with self._lock:
            self._failed = self._failed or error
        self._stop.set()

    def _finish(self, job: Partial) -> bool:
        """All bytes are here; are they the right ones?"""
        expected = job.file.sha256
        if expected:
            found = job.sha256 or self._sha256(job.new)
            if found != expected.lower():
                job.copies += 1
                self._again(job, f"has the SHA-256 {found}, but {expected} is what the place says")
                return False
        with self._lock:
            self._written.append(job)
            if len(self._written) < _SETTLED_AT_ONCE:
                return True
            written, self._written = self._written, []
        _settle(written)
        return True

    def _again(self, job: Partial, story: str) -> None:
        if job.copies >= self.options.copies:
            job.reset()
            raise PlaceUnavailable(
                f"{self.name(job)} was read {job.copies} times, and what came is not the file: it "
                f"{story}; upload it again, or ask those who run the place or what lies between"
            )
        self.tell(-job.new.stat().st_size)
        job.reset()
        job.sha256 = ""
        job.plan(self.options.part_bytes if self.place.ranges else 0)
        _pause(self.options, job.copies, self.check)

    def _sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as source:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                self.check()
        return digest.hexdigest()

    def _move_in(self, jobs: Sequence[Partial]) -> None:
        """By links first, so that one who is interrupted here can begin this anew."""
        self._into.mkdir(mode=0o700, parents=True, exist_ok=True)
        inside = Inside(self._into)
        for job in jobs:
            self.options.go_on()
            target = inside.path_of(job.name)
            if target.is_dir() and not target.is_symlink():
                raise InvalidArtifact(
                    f"{self.name(job)} has the name of a folder that is there already; rename one")
            target.unlink(missing_ok=True)
            os.link(job.whole, target)
        for folder in sorted({self._into, *((self._into / job.name).parent for job in jobs)}):
            sync_folder(folder)
        for job in jobs:
            job.whole.unlink()
        if not any(self._partial.iterdir()):
            self._partial.rmdir()

    def name(self, job: Partial) -> str:
        return f"{self._uri}: {in_words(job.file.name)}" if job.file.name else self._uri

    def check(self) -> None:
        if self._stop.is_set():
            raise _Stopped
        self.options.go_on()

    def tell(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._progress(self._done, self._snapshot.size_bytes)

    def chunks(self, job: Partial, start: int, end: int | None) -> Generator[bytes, None, None]:
        """What the place gives. Raises as it does, and PlaceUnavailable for lost connections that
        it did not put into words."""
        source = self.place.read(self._snapshot, job.file, start, end)
        try:
            while (chunk := _next(source)) is not None:
                yield chunk
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()


def _settle(written: Sequence[Partial]) -> None:
    """These files are right: once their bytes are on disk for good, they are whole."""
    sync_files([job.new for job in written])
    for job in written:
        os.replace(job.new, job.whole)
        job.parts.unlink(missing_ok=True)


def _hashed(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=16).hexdigest()


def _next(source: Iterator[bytes]) -> bytes | None:
    try:
        return next(source, None)
    except OSError as error:
        raise PlaceUnavailable(f"the connection was lost: {error.strerror or error}") from error


class _Part:
    """Reads one part of a file into it, as often as it takes."""

    def __init__(self, of: _Download, job: Partial, part: tuple[int, int | None], into: int
                 ) -> None:
        self._of = of
        self._job = job
        self._start, self._end = part
        self._into = into
        self.options = of.options
        self._ranges = of.place.ranges
        self._at = self._start
        # Of a file in parts the digest is computed at its end.
        self._counts = bool(job.file.sha256) and part == (0, job.file.size_bytes)
        self._digest = hashlib.sha256()

    def read(self) -> str:
        """Returns the SHA-256 of a file that comes in one part. Raises PlaceUnavailable with the
        story of the last attempt, once there were too many."""
        failures = 0
        if self._end == self._start:
            return self._digest.hexdigest()
        while True:
            begun = self._at
            try:
                self._attempt()
                if self._end is None or self._at == self._end:
                    return self._digest.hexdigest()
                story = f"the connection ended after {self._at - self._start:,} of " \
                        f"{self._end - self._start:,} bytes"
            except PlaceUnavailable as error:
                story = error.message
            except _Unusable as error:
                story = str(error)
                self._begin_anew()
            worth = self._at - begun >= self.options.least_bytes_s * self.options.window_s
            if not self._ranges:
                self._begin_anew()
                worth = False
            failures = 1 if worth else failures + 1
            if failures >= self.options.attempts:
                raise PlaceUnavailable(
                    f"{self._of.name(self._job)} could not be downloaded: {failures} attempts "
                    f"failed, the last because {story}; it is tried again later"
                )
            _pause(self.options, failures, self._of.check)

    def _attempt(self) -> None:
        of, pace = self._of, _Pace(self.options)
        end = None if self._end == self._job.file.size_bytes else self._end
        with closing(of.chunks(self._job, self._at, end)) as chunks:
            for chunk in chunks:
                of.check()
                if self._end is not None and self._at + len(chunk) > self._end:
                    raise _Unusable(f"more than the {self._end - self._start:,} bytes came that "
                                    "were asked for")
                write_all(self._into, chunk, self._at)
                if self._counts:
                    self._digest.update(chunk)
                self._at += len(chunk)
                of.tell(len(chunk))
                pace.add(len(chunk))

    def _begin_anew(self) -> None:
        self._of.tell(self._start - self._at)
        self._at = self._start
        self._digest = hashlib.sha256()
        if self._end is None:
            os.ftruncate(self._into, self._start)


def _pause(options: Options, failures: int, check: Callable[[], None]) -> None:
    """Wait for longer with every failure, but not when it is to end."""
    longest = min(options.longest_wait_s, options.first_wait_s * 2.0 ** (failures - 1))
    left = longest * (0.5 + 0.5 * options.random())
    while left > 0:
        check()
        step = min(left, _CHECK_EVERY_S)
        options.sleep(step)
        left -= step
    check()

