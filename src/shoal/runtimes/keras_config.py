"""Says what in a saved Keras model would do more than compute when it is loaded.

Looks into the configuration alone: of `.keras` archives `config.json`, of HDF5 files the attribute
`model_config`. Imports no Keras, and h5py only for files that need it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

HDF5_HEAD: Final = b"\x89HDF\r\n\x1a\n"
_CONFIG: Final = "config.json"
_MOST_CONFIG_BYTES: Final = 256 * 1024**2

# Packages of Keras in which every class and function only computes. Others hold such as
# `keras.utils.get_file` and `keras.models.load_model`.
_COMPUTING: Final = (
    "activations", "constraints", "dtype_policies", "engine", "initializers", "layers", "losses",
    "metrics", "mixed_precision", "ops", "optimizers", "quantizers", "random", "regularizers",
)
_MODELS: Final = frozenset({"Functional", "Model", "Sequential"})
_PLAIN: Final = frozenset({  # of the module `builtins`, besides functions of Keras by name
    "__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__",
    "function",
})
# Layers that hold code, or load a model of another framework from a path.
_RUNNING: Final = frozenset({
    "FlaxLayer", "JaxLayer", "Lambda", "NNXLayer", "TFSMLayer", "TorchModuleWrapper", "__lambda__",
})
_LOOKUPS: Final = frozenset({"IntegerLookup", "StringLookup", "TextVectorization"})


class NotKeras(ValueError):
    """It cannot be looked into."""


def runs(path: Path) -> str | None:
    """What of the model can run code or reads other files, in a few words; None: nothing does.
    Raises NotKeras, OSError."""
    with path.open("rb") as file:
        is_hdf5 = file.read(len(HDF5_HEAD)) == HDF5_HEAD
    config = _of_hdf5(path) if is_hdf5 else _of_archive(path)
    if isinstance(config, str):
        return config
    return next((said for each in _objects(config) if (said := _said(each)) is not None), None)


def _of_archive(path: Path) -> Json:
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(_CONFIG)
            if info.file_size > _MOST_CONFIG_BYTES:
                raise NotKeras(f"its {_CONFIG} has {info.file_size:,} bytes")
            config: Json = json.loads(archive.read(info))
            return config if isinstance(config, dict) else []
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, NotImplementedError,
            RuntimeError, EOFError) as error:
        raise NotKeras(str(error)) from error


def _of_hdf5(path: Path) -> Json:
    """Or, as text, that it reads other files."""
    try:
        import h5py
    except ImportError as error:
        raise NotKeras("h5py is not installed") from error
    try:
        with h5py.File(path, "r") as file:
            if (outside := _outside(file, h5py)) is not None:
                return outside
            text = file.attrs.get("model_config", "{}")
            config: Json = json.loads(text)
            return config if isinstance(config, dict) else []
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise NotKeras(str(error)) from error


def _outside(file: object, h5py: object) -> str | None:
    """Weights that lie in other files."""
    found: list[str] = []

    def look(name: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):  # type: ignore[attr-defined]
            found.append(f"a link to the file {link.filename}")

    def examine(name: str, thing: object) -> None:
        if isinstance(thing, h5py.Dataset) and (  # type: ignore[attr-defined]
                thing.external or thing.is_virtual):
            found.append(f"weights in other files ({name})")

    file.visititems_links(look)  # type: ignore[attr-defined]
    file.visititems(examine)  # type: ignore[attr-defined]
    return found[0] if found else None


def _objects(config: Json) -> Iterator[dict[str, Json]]:
    """Whatever in the configuration names a class, at any depth."""
    waiting: list[Json] = [config]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if "class_name" in each:
                yield each
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)


def _said(thing: dict[str, Json]) -> str | None:
    name, module, inner = thing["class_name"], thing.get("module"), thing.get("config")
    if not isinstance(name, str):
        return "a class without a name"
    shown = inner if name == "function" and isinstance(inner, str) else name
    if name in _RUNNING or shown in _RUNNING:
        return f"a layer {name}"
    for registered in (name, thing.get("registered_name")):
        if isinstance(registered, str) and ">" in registered:
            return f"the registered class {registered}"
    if module is not None and not _computes(str(module), name):
        return f"{shown} of the module {module}"
    if name in _LOOKUPS and isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
        return f"a layer {name} that reads the file {inner['vocabulary']}"
    return None


def _computes(module: str, name: str) -> bool:
    if module == "builtins":
        return name in _PLAIN
    first, *rest = module.split(".")
    if first not in ("keras", "tf_keras"):
        return False
    if rest[:1] == ["src"]:
        rest = rest[1:]
    if not rest or rest[0] == "models":
        return name in _MODELS or (not rest and name != "function")
    return rest[0] in _COMPUTING
