"""Real models of every format, trained once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples.make_models import Case, make_models


@pytest.fixture(scope="session")
def examples_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Case]]:
    """The folder, and its cases by `<model>` or `<model>-<version>`."""
    folder = tmp_path_factory.mktemp("examples") / "models"
    cases = make_models(folder)
    return folder, {
        case.model if case.version is None else f"{case.model}-{case.version}": case
        for case in cases
    }
