"""Makes Triton's model repository out of artifacts: a folder a model, with links to its files.

A folder that is Triton's already (`config.pbtxt`, or versions as folders) is taken as it is. Where
Triton cannot find out itself what a model takes, a `config.pbtxt` says what was declared. Must not
know when models are loaded.

Source: Triton, "model_repository", "model_configuration"; its FIL backend's "model_support".
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.domain.errors import InvalidArtifact, InvalidSpecification
from shoal.domain.signature import TensorSpec
from shoal.external.interface import ToLoad
from shoal.storage.digest import parts_of

CONFIG: Final = "config.pbtxt"
OPTIONS: Final = ("config",)

_VERSION: Final = "1"
_NAME: Final = re.compile(r"^\s*name\s*:.*$", re.MULTILINE)
_MOST_ROWS: Final = 32768  # of one call; FIL's own examples have it


@dataclass(frozen=True, slots=True)
class _Kind:
    """How Triton wants a format. file: what the artifact is called, by its suffix; "": whatever
    it has. config: the first lines of a `config.pbtxt` that Triton cannot do without; None: it
    completes that by itself. has_rows: it takes the first axis for rows, which are not declared."""

    files: dict[str, str]
    config: str | None = None
    has_rows: bool = False


def _forest(kind: str) -> str:
    return (
        'backend: "fil"\n'
        f'parameters [{{ key: "model_type" value: {{ string_value: "{kind}" }} }}]')


_TENSORFLOW: Final = _Kind({".pb": "model.graphdef", "": "model.savedmodel"})
_KINDS: Final = {
    "onnx": _Kind({"": "model.onnx"}),
    "openvino": _Kind({"": "model.xml"}),
    "pytorch": _Kind({"": "model.pt"}, 'platform: "pytorch_libtorch"'),
    "tensorflow": _TENSORFLOW,
    "tensorrt": _Kind({"": "model.plan"}),
    "python": _Kind({"": "model.py"}),
    "xgboost": _Kind({"": "xgboost.json"}, _forest("xgboost_json"), has_rows=True),
    "lightgbm": _Kind({"": "model.txt"}, _forest("lightgbm"), has_rows=True),
}
_FORESTS: Final = {
    ".ubj": _Kind({"": "xgboost.ubj"}, _forest("xgboost_ubj"), has_rows=True),
    ".model": _Kind({"": "xgboost.model"}, _forest("xgboost"), has_rows=True),
    ".deprecated": _Kind({"": "xgboost.model"}, _forest("xgboost"), has_rows=True),
}
_TYPES: Final = {"BYTES": "TYPE_STRING"}


class TritonLayout:
    """See `Layout`. models: the repository's folder."""

    def __init__(self, models: Path) -> None:
        self._models = models

    def add(self, model: ToLoad) -> None:
        config = _given_config(model)
        self.remove(model.id)
        folder = self._models / model.id
        folder.mkdir(parents=True)
        if is_triton_folder(model.path):
            _link_native(model.path, folder, config)
            return
        kind = _kind_of(model)
        name = kind.files.get(model.path.suffix.lower(), kind.files[""])
        if config is None:
            config = _config(model, kind)
        if model.format == "python" and model.path.is_dir():
            (folder / _VERSION).symlink_to(model.path.absolute())
        else:
            (folder / _VERSION).mkdir()
            (folder / _VERSION / name).symlink_to(model.path.absolute())
            for beside in parts_of(model.path)[1:]:
                renamed = (name.removesuffix(".xml") + beside.suffix
                           if model.format == "openvino" else beside.name)
                (folder / _VERSION / renamed).symlink_to(beside.absolute())
        if config is not None:
            (folder / CONFIG).write_text(config)

    def remove(self, model: str) -> None:
        shutil.rmtree(self._models / model, ignore_errors=True)  # links, not what they lead to


def is_triton_folder(path: Path) -> bool:
    """Is it a model's folder as Triton wants it, whose `config.pbtxt` may name any backend?"""
    return path.is_dir() and ((path / CONFIG).is_file() or any(
        child.name.isdecimal() and child.is_dir() for child in path.iterdir()))


def _link_native(path: Path, folder: Path, config: str | None) -> None:
    """Its name in there would have to be the folder's."""
    for child in path.iterdir():
        if child.name != CONFIG:
            (folder / child.name).symlink_to(child.absolute())
        elif config is None:
            config = _NAME.sub("", child.read_text())
    if config is not None:
        (folder / CONFIG).write_text(config)


def _given_config(model: ToLoad) -> str | None:
    options = model.options
    unknown = ", ".join(sorted(set(options) - set(OPTIONS)))
    if unknown:
        raise InvalidSpecification(
            f"unknown options {unknown}; a runtime that serves as Triton does takes 'config', the "
            "text of a config.pbtxt")
    config = options.get("config")
    if config is not None and not isinstance(config, str):
        raise InvalidSpecification("the option 'config' must be the text of a config.pbtxt")
    return config


def _kind_of(model: ToLoad) -> _Kind:
    if model.format == "xgboost" and model.path.suffix.lower() in _FORESTS:
        return _FORESTS[model.path.suffix.lower()]
    kind = _KINDS.get(model.format)
    if kind is None:
        raise InvalidArtifact(
            f"{model.path.name}: it is not known how Triton wants the format {model.format!r}; "
            f"known are {', '.join(_KINDS)}: make it a folder as Triton has it, with a {CONFIG}")
    return kind


def _config(model: ToLoad, kind: _Kind) -> str | None:
    artifact = model.artifact
    declared = bool(artifact.inputs and artifact.outputs)
    if kind.config is None and not (model.format == "python" and declared):
        return None
    if not declared:
        raise InvalidArtifact(
            f"{model.path.name}: Triton cannot find out what a model of the format "
            f"{model.format!r} takes; declare its 'inputs' and 'outputs', or give the option "
            f"'config', the text of a {CONFIG}")
    return "\n".join((
        kind.config or 'backend: "python"',
        f"max_batch_size: {_MOST_ROWS if kind.has_rows else 0}",
        *(_tensor("input", spec, kind.has_rows) for spec in artifact.inputs),
        *(_tensor("output", spec, kind.has_rows) for spec in artifact.outputs),
        "",
    ))


def _tensor(role: str, spec: TensorSpec, has_rows: bool) -> str:
    extents: Sequence[int] = spec.shape[1:] or (1,) if has_rows else spec.shape
    datatype = _TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")
    return (
        f"{role} [{{ name: {json.dumps(spec.name)} data_type: {datatype} "
        f"dims: [{', '.join(map(str, extents))}] }}]")
