"""Real models of every format, trained once a session; and every store, one after another."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from examples.cases import Case
from examples.make_models import make_further, make_models
from tests.any_store import STORES, opened_store
from tests.storage_fakes import HeldClock

from shoal.ports import KVStore

# Else importing OpenVINO reports to its makers, and leaves files in the home folder.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def examples_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Case]]:
    """The folder, and its cases by `<model>` or `<model>-<version>`."""
    folder = tmp_path_factory.mktemp("examples") / "models"
    cases = make_models(folder)
    return folder, {
        case.model if case.version is None else f"{case.model}-{case.version}": case
        for case in cases
    }


@pytest.fixture(scope="session")
def further(tmp_path_factory: pytest.TempPathFactory
            ) -> Callable[[str], tuple[Path, dict[str, Case]]]:
    """The models of one module of `examples.further`, made when first asked for: the folder, and
    cases by model."""
    made: dict[str, tuple[Path, dict[str, Case]]] = {}

    def get(name: str) -> tuple[Path, dict[str, Case]]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "models"
            made[name] = folder, {case.model: case for case in make_further(folder, name)}
        return made[name]

    return get


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture(params=STORES)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: HeldClock
) -> AsyncIterator[KVStore]:
    store = opened_store(request.param, request, tmp_path, clock)
    yield store
    await store.close()
