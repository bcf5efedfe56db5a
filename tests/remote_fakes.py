"""A place of files in memory that fails as it is told to, for tests of what downloads from it; and
what places give."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shoal.domain.errors import ArtifactChanged, ArtifactMissing
from shoal.storage.download import Options
from shoal.storage.places.place import Files, RemoteFile, Snapshot

URI = "mem://bucket/iris"


@dataclass
class MemoryPlace:
    """files: what lies there. vouches: with a SHA-256 each. tags: with a tag each.

    fault: given the number of the read (from 1), the file's name, its start and the bytes that are
    asked for, what comes instead: fewer, other or more bytes; an exception comes after them.
    """

    files: dict[str, bytes]
    ranges: bool = True
    nested: bool = True
    vouches: bool = False
    tags: bool = True
    sizes: bool = True
    chunk_bytes: int = 4
    uri: str = URI
    fault: Callable[[int, str, int, bytes], tuple[bytes, Exception | None]] | None = None
    reads: list[tuple[str, int, int | None]] = field(default_factory=list)
    looks: int = 0
    given_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, uri: str) -> Snapshot:
        self.looks += 1
        if not self.files:
            raise ArtifactMissing(f"{uri} does not exist")
        return Snapshot(uri, tuple(self._file(name) for name in sorted(self.files)))

    def _file(self, name: str) -> RemoteFile:
        content = self.files[name]
        sha256 = hashlib.sha256(content).hexdigest()
        return RemoteFile(
            name, len(content) if self.sizes else None, tag=sha256[:8] if self.tags else "",
            sha256=sha256 if self.vouches else None)

    def read(
        self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
    ) -> Iterator[bytes]:
        with self.lock:
            self.reads.append((file.name, start, end))
            number = len(self.reads)
        if file.name not in self.files:
            raise ArtifactMissing(f"{file.name} is gone")
        if self.tags and self._file(file.name).tag != file.tag:
            raise ArtifactChanged(f"{file.name} changed")
        data, error = self.files[file.name][start:end], None
        if self.fault is not None:
            data, error = self.fault(number, file.name, start, data)
        for at in range(0, len(data), self.chunk_bytes):
            chunk = data[at:at + self.chunk_bytes]
            with self.lock:
                self.given_bytes += len(chunk)
            yield chunk
        if error is not None:
            raise error


@dataclass
class Time:
    """Passes where it is waited for."""

    now_s: float = 0.0
    waits: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds


def quick(time: Time | None = None, **changes: object) -> Options:
    """Options that wait for nobody, draw the longest waits and have small parts."""
    time = time or Time()
    chosen: dict[str, object] = {
        "threads": 2, "part_bytes": 10, "first_wait_s": 0.125, "longest_wait_s": 0.25,
        "clock": time.clock, "sleep": time.sleep, "random": lambda: 1.0,
        "free": lambda folder: 10**9, **changes,
    }
    return Options(**chosen)  # type: ignore[arg-type]


def names(snapshot: Snapshot) -> list[str]:
    return [file.name for file in snapshot.files]


def whole(place: Files, snapshot: Snapshot, number: int = 0) -> bytes:
    return b"".join(place.read(snapshot, snapshot.files[number]))


def read_all(place: Files, snapshot: Snapshot) -> dict[str, bytes]:
    return {file.name: b"".join(place.read(snapshot, file)) for file in snapshot.files}


def tree(folder: Path) -> dict[str, bytes]:
    """All files below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}
