"""Finds out what a path holds: one model, its versions, and what is written about it beside them.

    iris.joblib  [iris.yaml]                a bare artifact, perhaps described
    iris/model.joblib  [model.yaml]         a folder with one artifact
    iris/1/…  iris/2/…  [model.yaml]        versions: whole numbers from 1, without leading zeros
    iris/config.pbtxt  iris/1/model.onnx    Triton's
    iris/model-settings.json  iris/…        MLServer's
    iris/model.py  iris/…                   a Python model and what it imports: the folder
    iris/MLmodel  iris/model.skops          MLflow's, as `mlmodel` reads it
    iris.yaml                               a description alone, whose `uri` leads to the artifact

Only reads names and descriptions; which artifact a version holds is for `artifact` to find.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelSpec
from shoal.storage import mlserver, model_yaml, triton
from shoal.storage.description import Description, complete, merge
from shoal.storage.files import reading
from shoal.storage.formats import FormatFinder, folder_format, known_suffixes, without_suffix
from shoal.storage.uri import is_remote, local_path

DESCRIPTION_NAMES: Final = (*model_yaml.FILE_NAMES, mlserver.FILE_NAME, triton.FILE_NAME)

_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Layout:
    """What lies at `path`.

    default_name: the file's or folder's name without its artifact suffix.
    triton_name: what a `config.pbtxt` calls the model; empty: nothing.
    described: everything written beside the artifact, together; None: nothing is.
    place: where the artifact is looked for: `path`, unless the description leads elsewhere.
    versions: by number, the file or folder in which that version's artifact is.
    remote: the URI to which the description leads, where that is not on this machine; then there
        are no versions here.
    """

    path: Path
    default_name: str
    triton_name: str
    described: Description | None
    place: Path
    versions: dict[int, Path]
    remote: str = ""


def look(path: Path, finder: FormatFinder) -> Layout:
    """What `path` holds. Blocking.

    Raises ArtifactMissing when there is nothing or it cannot be read, InvalidSpecification for a
    description that cannot be followed.
    """
    with reading(path):
        is_folder = os.path.isdir(path)
        if not is_folder:
            path.stat()
        descriptions = _in_folder(path) if is_folder else _beside_file(path, finder)
    default_name = path.name if is_folder else _name_of_file(path, finder)
    described = None
    for each in descriptions:
        described = merge(described, each) if described else each
    triton_name = next(
        (each.spec.name for each in descriptions if each.source.name == triton.FILE_NAME), ""
    )
    place = path
    if described and is_remote(described.spec.uri):
        return Layout(path, default_name, triton_name, described, path, {}, described.spec.uri)
    if described and described.spec.uri:
        place = local_path(described.spec.uri, base=described.source.parent)
    elif not is_folder and descriptions and descriptions[0].source == path:
        raise InvalidSpecification(
            f"{path} describes no artifact: there is none beside it named "
            f"{default_name}.<suffix>; put one there, set 'uri', or, for a folder, move this "
            f"file into it as {model_yaml.FILE_NAMES[0]}"
        )
    with reading(place):
        versions = version_folders(place) or {(described and described.version) or 1: place}
    return Layout(path, default_name, triton_name, described, place, versions)


def spec_for_child(layout: Layout, uri: str) -> ModelSpec:
    """The declaration that a child of a watched folder, which lies at `uri`, makes by what lies in
    it.

    Raises InvalidSpecification when Triton's configuration names another model than its folder, as
    Triton does.
    """
    path = layout.path
    if layout.triton_name and layout.triton_name != layout.default_name:
        raise InvalidSpecification(
            f"{path / triton.FILE_NAME} names the model {layout.triton_name!r}, but its folder is "
            f"{layout.default_name!r}; make the two alike, or remove 'name' there"
        )
    spec = ModelSpec(name=layout.default_name, uri=uri)
    if layout.described is None:
        return spec
    spec = complete(spec, layout.described.spec)
    name = layout.described.spec.name
    return msgspec.structs.replace(spec, name=name) if name else spec


def is_model(path: Path, finder: FormatFinder) -> bool:
    """Is `path` itself one model, rather than a folder of models? Raises as `look` does."""
    with reading(path):
        if not path.is_dir():
            return True
        if any(os.path.lexists(path / name) for name in DESCRIPTION_NAMES) or version_folders(path):
            return True
        return folder_format(path, finder) is not None


def version_folders(folder: Path) -> dict[int, Path]:
    """The numeric folders in `folder`, ascending; as in Triton, other names and those that begin
    with 0 are no versions. Raises OSError."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        numbers = [int(e.name) for e in entries if _VERSION.fullmatch(e.name) and e.is_dir()]
    return {number: folder / str(number) for number in sorted(numbers)}


def _in_folder(folder: Path) -> list[Description]:
    """Most telling first."""
    yamls = _present(folder / name for name in model_yaml.FILE_NAMES)
    found = [model_yaml.read_model_yaml(path) for path in _at_most_one(yamls)]
    found += map(mlserver.read_model_settings, _present([folder / mlserver.FILE_NAME]))
    found += map(triton.read_config, _present([folder / triton.FILE_NAME]))
    return found


def _beside_file(path: Path, finder: FormatFinder) -> list[Description]:
    """Of `iris.joblib`: `iris.yaml`; of `iris.yaml`: itself, unless a runtime claims it."""
    if path.suffix in model_yaml.SUFFIXES and finder.recognise(path) is None:
        return [model_yaml.read_model_yaml(path)]
    stem = without_suffix(path.name, known_suffixes(finder))
    yamls = _present(path.with_name(stem + suffix) for suffix in model_yaml.SUFFIXES)
    beside = [each for each in yamls if each != path]
    return [model_yaml.read_model_yaml(each) for each in _at_most_one(beside)]


def _present(paths: Iterable[Path]) -> list[Path]:
    """Links to nothing included: reading them says so."""
    return [path for path in paths if os.path.lexists(path)]


def _at_most_one(paths: list[Path]) -> list[Path]:
    if len(paths) > 1:
        raise InvalidSpecification(f"{paths[0]} and {paths[1].name} both exist; keep one")
    return paths


def _name_of_file(path: Path, finder: FormatFinder) -> str:
    return without_suffix(path.name, (*known_suffixes(finder), *model_yaml.SUFFIXES))
