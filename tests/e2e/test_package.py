"""What `pip install` gets: the wheel holds everything, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT],
        check=True, timeout=120,
    )
    (wheel,) = folder.glob("shoal-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_every_module_and_template_is_in_the_wheel(names: list[str]) -> None:
    source = ROOT / "src"
    wanted = {
        str(path.relative_to(source)) for path in (source / "shoal").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= set(names)
    assert "shoal/py.typed" in names


def test_only_the_package_and_its_licence_are_in_the_wheel(names: list[str]) -> None:
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"shoal"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
