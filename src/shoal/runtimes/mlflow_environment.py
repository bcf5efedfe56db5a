"""Compares the environment in which an MLflow model was made with the one in which it is loaded.

Differences are told, and no reason to refuse: most models run with other releases. Installs
nothing.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Final

import yaml

REQUIREMENTS: Final = "requirements.txt"
_PYTHON: Final = "python_env.yaml"
_SHOWN: Final = 6
# Distributions that are the same to who imports them.
_ALIKE: Final = {
    "mlflow": ("mlflow-skinny",), "xgboost": ("xgboost-cpu",),
    "tensorflow": ("tensorflow-cpu", "tf-nightly"), "onnxruntime": ("onnxruntime-gpu",),
}


def differences(folder: Path) -> list[str]:
    """One sentence for what is installed in other releases or not at all, and one for Python's."""
    found = [_difference(line) for line in _lines(folder / REQUIREMENTS)]
    differing = [each for each in found if each]
    more = len(differing) - _SHOWN
    told = []
    if differing:
        listed = ", ".join(differing[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        told.append(f"its {REQUIREMENTS} asks for {listed}")
    python = _python(folder / _PYTHON)
    here = "{}.{}".format(*sys.version_info)
    if python and python.split(".")[:2] != here.split("."):
        told.append(f"it was saved with Python {python}, and runs with {here}")
    return told


def _difference(line: str) -> str | None:
    from packaging.requirements import InvalidRequirement, Requirement  # comes with mlflow

    try:
        wanted = Requirement(line)
    except InvalidRequirement:  # an option of pip, a path, a URL
        return None
    if wanted.marker is not None and not wanted.marker.evaluate():
        return None
    installed = _installed(wanted.name)
    if installed is None:
        return f"{line} (not installed)"
    return None if wanted.specifier.contains(installed, prereleases=True) else (
        f"{line} (installed: {installed})"
    )


def _installed(name: str) -> str | None:
    for each in (name, *_ALIKE.get(name.lower(), ())):
        try:
            return metadata.version(each)
        except metadata.PackageNotFoundError:
            continue
    return None


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    lines = (line.partition(" #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _python(path: Path) -> str | None:
    try:
        content: object = yaml.safe_load(path.read_text(errors="replace"))
    except (OSError, yaml.YAMLError):
        return None
    version = content.get("python") if isinstance(content, dict) else None
    return str(version) if version else None
