"""Packages of models' own files come and go while others import."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from shoal.runtimes.local_imports import LocalPackage

ROUNDS = 300


@pytest.fixture
def importing() -> Iterator[None]:
    """A thread that imports and forgets modules all the time, and takes turns often."""
    ends, interval = threading.Event(), sys.getswitchinterval()

    def run() -> None:
        while not ends.is_set():
            for number in range(64):
                sys.modules[f"_of_another_{number}"] = ModuleType("another")
            for number in range(64):
                del sys.modules[f"_of_another_{number}"]

    thread = threading.Thread(target=run)
    sys.setswitchinterval(1e-6)
    thread.start()
    yield
    ends.set()
    thread.join()
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("importing")
def test_a_package_is_forgotten_whatever_others_import(tmp_path: Path) -> None:
    (tmp_path / "prices.py").write_text("ONE = 1\n")
    for _ in range(ROUNDS):
        package = LocalPackage(tmp_path, "m")
        assert package.import_module("prices").ONE == 1
        package.remove()
        assert package.name not in sys.modules
        assert f"{package.name}.prices" not in sys.modules
