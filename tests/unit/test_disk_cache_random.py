"""Random lives of a disk cache: whatever happens, its books agree with what lies on disk."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.storage_fakes import put

from shoal.domain.errors import NoRoom, ShuttingDown
from shoal.storage.digest import read_content
from shoal.storage.disk_cache import CacheOptions, DiskCache, Held

BUDGET_BYTES = 300
STEPS = 120


class Life:
    """Two processes, as far as one can be two: two caches in one folder."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.caches = [self.opened(), self.opened()]
        self.held: list[list[Held]] = [[], []]
        self.files = {f"f{n}": self.random.randbytes(self.random.randint(0, 80)) for n in range(9)}
        self.digests: set[str] = set()

    def opened(self) -> DiskCache:
        return DiskCache(self.root, BUDGET_BYTES, CacheOptions(free=lambda folder: 10**9))

    def adopt(self, which: int) -> None:
        names = self.random.sample(sorted(self.files), self.random.randint(1, 4))
        try:
            with self.caches[which].fetching(" ".join(names)) as fetch:
                fetch.reserve(sum(len(self.files[name]) for name in names))
                for name in names:
                    put(fetch.folder / "files" / name, self.files[name])
                if self.random.random() < 0.2:
                    raise ShuttingDown("the instance ends")
                held = fetch.adopt(fetch.folder / "files", self.random.random())
        except (NoRoom, ShuttingDown):
            return
        self.held[which].append(held)
        self.digests.add(held.digest)

    def open(self, which: int) -> None:
        if self.digests:
            held = self.caches[which].open(self.random.choice(sorted(self.digests)))
            if held is not None:
                self.held[which].append(held)

    def release(self, which: int) -> None:
        if self.held[which]:
            self.held[which].pop(self.random.randrange(len(self.held[which]))).release()

    def restart(self, which: int) -> None:
        self.caches[which].close()
        self.held[which].clear()
        self.caches[which] = self.opened()

    def crash(self, which: int) -> None:
        before = set(os.listdir(self.root / "users"))
        self.caches[which].close()
        self.held[which].clear()
        for name in before - set(os.listdir(self.root / "users")):
            put(self.root / "users" / name)
        self.caches[which] = self.opened()

    def check(self) -> None:
        found = self.caches[0].statistics()
        blobs = {path.name: path.stat() for path in (self.root / "blobs").iterdir()}
        assert found.size_bytes == sum(info.st_size for info in blobs.values()) <= BUDGET_BYTES
        assert found.blobs == len(blobs)
        assert found.trees == len(os.listdir(self.root / "trees"))
        assert all(stat.S_IMODE(info.st_mode) == 0o400 for info in blobs.values())
        for held in (*self.held[0], *self.held[1]):
            assert read_content(held.path).digest == held.digest


@pytest.mark.usefixtures("without_waiting_for_the_disk")
@pytest.mark.parametrize("seed", range(4))
def test_the_books_agree_with_the_disk(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path, seed)
    steps: list[Callable[[int], None]] = [
        *[life.adopt] * 6, *[life.open] * 4, *[life.release] * 8, life.restart, life.crash]
    for _ in range(STEPS):
        life.random.choice(steps)(life.random.randrange(2))
        life.check()
    for cache in life.caches:
        cache.close()
