"""What tests of the disk cache bring into it, and a clock that they move."""

from __future__ import annotations

from dataclasses import dataclass

from tests.storage_fakes import put

from shoal.storage.disk_cache import DiskCache

IRIS = {"1/model.bin": b"0123456789", "model.yaml": b"name: iris"}


@dataclass
class Seconds:
    now_s: float = 1000.0
    waits: int = 0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.waits += 1
        self.now_s += seconds


def adopt(cache: DiskCache, files: dict[str, bytes], cost_s: float = 1.0, *, keep: bool = False
          ) -> str:
    """Brings a folder into the cache, and gives its digest."""
    with cache.fetching(repr(files)) as fetch:
        for name, content in files.items():
            put(fetch.folder / "files" / name, content)
        held = fetch.adopt(fetch.folder / "files", cost_s)
    if not keep:
        held.release()
    return held.digest


def adopt_file(cache: DiskCache, name: str, content: bytes) -> str:
    with cache.fetching(name) as fetch, fetch.adopt(put(fetch.folder / name, content)) as held:
        return held.digest


def here(cache: DiskCache, digest: str) -> bool:
    held = cache.open(digest)
    if held is not None:
        held.release()
    return held is not None
