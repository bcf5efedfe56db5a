"""Servers that the tests of the public port share: starting one costs seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.odd_models import write_odd_models
from tests.served import Served

if TYPE_CHECKING:
    from examples.cases import Case

EXAMPLES = ("iris", "iris-net", "penguins", "prices")


@dataclass(frozen=True)
class Public:
    """A server that allows everything and logs each request. folder: its models, the examples
    above and `odd_models`; cases: what the examples answer, `prices` by its newer version."""

    server: Served
    folder: Path
    cases: dict[str, Case]

    def post(self, path: str, body: object, **headers: str) -> httpx2.Response:
        """`body` as JSON; header names with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.server.http.post(path, content=json.dumps(body), headers=named)

    def open(self, model: str) -> None:
        """The gate for which `model` waits."""
        (self.folder / model / "go").touch()


@pytest.fixture(scope="session")
def public(
    tmp_path_factory: pytest.TempPathFactory, example_cases: tuple[Path, list[Case]]
) -> Iterator[Public]:
    base = tmp_path_factory.mktemp("public")
    folder = base / "models"
    for name in EXAMPLES:
        shutil.copytree(example_cases[0] / name, folder / name)
    write_odd_models(folder)
    cases = {case.model: case for case in example_cases[1] if case.model in EXAMPLES}
    with Served(
        folder, "--memory", "48MiB", "--cache-fill", "none", "--request-repository-control",
        "--log-requests", "--no-folder-watch", "--http-max-body-bytes", "8MiB",
        "--grpc-max-message-bytes", "32MiB",
        data_dir=base / "data",
    ) as server:
        yield Public(server, folder, cases)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without models whose public port may change nothing, as is the default."""
    base = tmp_path_factory.mktemp("guarded")
    with Served(data_dir=base / "data") as server:
        yield server
