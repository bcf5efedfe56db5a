"""Chooses the store that `registry.url` names.

The only module of this package that knows all adapters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shoal.domain.errors import InvalidSpecification
from shoal.ports import Clock, KVStore
from shoal.stores.memory import MemoryStore
from shoal.stores.sqlite import SqliteStore

_FILE: Final = "registry.sqlite3"


def open_store(url: str, data_dir: Path, clock: Clock) -> KVStore:
    """The store, open. Blocks for milliseconds on a file.

    Raises InvalidSpecification for a URL that names no store, StoreDamaged for a file that must be
    dealt with first (see `sqlite_repair`), StoreUnavailable for other trouble with it.
    """
    path = registry_file(url, data_dir)
    return MemoryStore(clock) if path is None else SqliteStore(path, clock)


def registry_file(url: str, data_dir: Path) -> Path | None:
    """The file that `url` names; None for `memory`. Raises InvalidSpecification.

    `sqlite` is the file in `data_dir`; `sqlite:///var/lib/shoal.sqlite3` is an absolute path,
    percent-encoded as in any URL.
    """
    if url == "memory":
        return None
    if url == "sqlite":
        return data_dir / _FILE
    parts = urlsplit(url)
    extra = parts.netloc or parts.query or parts.fragment
    path = Path("/" + unquote(parts.path).lstrip("/"))
    if parts.scheme != "sqlite" or extra or path == Path("/"):
        raise InvalidSpecification(
            f"registry.url: {url!r} names no store; set it to `sqlite` (a file in data_dir), "
            "`sqlite:///absolute/path/of/a/file` or `memory`"
        )
    return path
