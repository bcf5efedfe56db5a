"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.etcd_server import EtcdServer
from tests.object_stores import blob_server, nobody, s3_server
from tests.served import Served

if TYPE_CHECKING:
    from examples.cases import Case

__all__ = ["blob_server", "nobody", "s3_server"]

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the modules of tests import, frameworks above all, stays: the garbage collector need not
    look through it again and again, which takes a second in which no client of a test asks."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="session")
def example_cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    """The folder of the example models, and what they answer. Not to be changed."""
    sys.path.insert(0, str(ROOT))
    from examples.make_models import make_models

    folder = tmp_path_factory.mktemp("examples") / "models"
    return folder, make_models(folder)


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    """For tests that keep to a prefix of their own and do the server no harm."""
    with EtcdServer() as server:
        yield server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers that end with the test: `serve(FOLDER, "--memory", "64MiB")`."""
    started: list[Served] = []

    def start(*arguments: str | Path, data_dir: Path | None = None,
              environ: dict[str, str] | None = None) -> Served:
        server = Served(*arguments, data_dir=data_dir or tmp_path / "data", environ=environ)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
