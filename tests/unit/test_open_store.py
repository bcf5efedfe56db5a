"""Which store `registry.url` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.domain.errors import InvalidSpecification
from shoal.settings import RegistrySettings
from shoal.stores.memory import MemoryStore
from shoal.stores.open import open_store, registry_file
from shoal.stores.sqlite import SqliteStore


class StillClock:
    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0


def test_memory_is_a_store_without_a_file(tmp_path: Path) -> None:
    store = open_store(RegistrySettings(url="memory"), tmp_path, StillClock())
    assert isinstance(store, MemoryStore)
    assert list(tmp_path.iterdir()) == []


async def test_sqlite_is_a_file_in_the_data_folder(tmp_path: Path) -> None:
    store = open_store(RegistrySettings(), tmp_path / "data", StillClock())
    assert isinstance(store, SqliteStore)
    assert store.path == tmp_path / "data" / "registry.sqlite3"
    await store.close()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite", "/data/registry.sqlite3"),
        ("sqlite:///srv/shoal.sqlite3", "/srv/shoal.sqlite3"),
        ("sqlite:////srv/shoal.sqlite3", "/srv/shoal.sqlite3"),
        ("sqlite:///srv/with%20space.sqlite3", "/srv/with space.sqlite3"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    assert registry_file(url, Path("/data")) == Path(path)


@pytest.mark.parametrize(
    "url",
    ["", "etcd", "etcd:host", "sqlite://", "sqlite:///", "sqlite://relative.db", "sqlite:///a?mode=ro",
     "Memory", "/srv/shoal.sqlite3", "sqlite:///a#b"],
)
def test_anything_else_is_refused_and_says_what_is_accepted(url: str) -> None:
    with pytest.raises(InvalidSpecification) as refused:
        registry_file(url, Path("/data"))
    message = refused.value.message
    assert message.startswith("registry.url: ")
    assert repr(url) in message
    assert "`sqlite`" in message
    assert "`memory`" in message
