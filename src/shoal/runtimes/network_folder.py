"""Whose is a folder with Python files: a served class's (format `python`), or a network's, which is
a class of PyTorch beside its weights (format `pytorch`)?

Both are a folder with `model.py`. Classes are told apart by what the source says of them; nothing
is imported or run.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shoal.runtimes.torch_file import WEIGHT_SUFFIXES, Kind, kind_of

FILE: Final = "model.py"
_SERVED: Final = "Model"  # what a served class is called, unless an option says otherwise
_CONFIG: Final = "config.json"


def is_network_folder(folder: Path) -> bool:
    """Weights, and a `model.py` with the class that they belong to; no class there has `predict`
    without being a network itself, and none is called `Model` without being one.

    Folders that other programs wrote whole (MLflow's, Hugging Face's) are none.
    """
    source = folder / FILE
    if not source.is_file() or not weights_in(folder):
        return False
    if (folder / "MLmodel").exists() or _is_hugging_face(folder):
        return False
    networks = 0
    for path in sorted(folder.glob("*.py")):
        for found in _classes(path):
            if _is_network(found):
                networks += path == source
            elif found.name == _SERVED or _has(found, "predict"):
                return False
    return networks > 0


def weights_in(folder: Path) -> list[Path]:
    """Files of weights, or damaged ones, sorted by name; programs are none."""
    return [
        path for path in sorted(folder.iterdir())
        if path.suffix.lower() in WEIGHT_SUFFIXES and not path.name.startswith(".")
        and path.is_file()
        and kind_of(path) in (Kind.WEIGHTS, Kind.SAFETENSORS, Kind.UNKNOWN)
    ]


def _is_hugging_face(folder: Path) -> bool:
    try:
        config = json.loads((folder / _CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and ("architectures" in config or "model_type" in config)


def _classes(path: Path) -> Iterator[ast.ClassDef]:
    """At the top of a file; of one that cannot be parsed none: importing it will say why."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return iter(())
    return (node for node in tree.body if isinstance(node, ast.ClassDef))


def _is_network(found: ast.ClassDef) -> bool:
    """It has `forward`, or a base that is called some kind of `Module` (`nn.Module`)."""
    return _has(found, "forward") or any(
        ast.unparse(base).rpartition(".")[2].endswith("Module") for base in found.bases
    )


def _has(found: ast.ClassDef, method: str) -> bool:
    return any(
        isinstance(each, ast.FunctionDef) and each.name == method for each in found.body
    )
