"""What storage asks of the runtimes: which format are these files? As a Protocol.

`shoal.runtimes.registry` satisfies it; storage imports no runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from shoal.domain.choosing import Wanted, check_named, choose, takes_format
from shoal.domain.errors import InvalidSpecification, UnknownFormat
from shoal.domain.model import ModelSpec
from shoal.domain.serving_runtime import DeclaredRuntime
from shoal.domain.signature import TensorSpec


class Found(NamedTuple):
    """An artifact: the file, or the folder where the format is one. inputs, outputs: as what lies
    with it says; empty: nothing does."""

    path: Path
    format: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


class FormatInfo(Protocol):
    """The part of a runtime that can be known without its framework."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of artifact files, lower case, in order of preference."""


class FormatFinder(Protocol):
    """All formats that this installation can name."""

    def recognise(self, path: Path) -> str | None:
        """The format of a file or folder; None: of none that is known. May raise OSError."""

    def formats(self) -> tuple[str, ...]: ...

    def runs_code(self, format: str, path: Path) -> bool:  # noqa: A002
        """Can loading `path` as `format` run code that it contains?"""

    def get(self, format: str) -> FormatInfo:  # noqa: A002
        """Raises a ShoalError that says why for a name that is not one of `formats()`."""

    def declared(self) -> Sequence[DeclaredRuntime]:
        """The serving runtimes outside, which load formats of their own."""


def check_format(name: str, finder: FormatFinder) -> None:
    """Raise, as `finder.get` does, unless `name` is a format of this installation, or of a serving
    runtime. Where there are such, NoSupportingRuntime lists them."""
    if name not in finder.formats():
        declared = finder.declared()
        if takes_format(name, declared):
            return
        try:
            finder.get(name)
        except UnknownFormat:
            if declared:
                choose(Wanted(name), declared, finder.formats())  # says who loads what
            raise
        raise InvalidSpecification(
            f"the format {name!r} has no runtime in this installation; "
            f"known formats: {', '.join(finder.formats()) or 'none'}"
        )


def check_runtime(spec: ModelSpec, finder: FormatFinder) -> None:
    """Raise RuntimeNotRecognized or RuntimeDisabled when `spec` names a runtime that is so."""
    if spec.runtime is not None:
        check_named(spec.runtime, finder.declared())


def chosen_runtime(spec: ModelSpec, form: str, finder: FormatFinder) -> str | None:
    """The serving runtime for an artifact of this format; None: the instance itself. Raises as
    `choosing.choose`."""
    return choose(Wanted.by(spec, form), finder.declared(), finder.formats())


def folder_format(folder: Path, finder: FormatFinder) -> str | None:
    """The format that takes `folder` as a whole; None: an artifact has to be found in it. A folder
    called `iris.onnx` is none merely by its name. Raises OSError."""
    name = finder.recognise(folder)
    if name is not None and folder.name.lower().endswith(finder.get(name).suffixes):
        return None
    return name


def known_suffixes(finder: FormatFinder) -> tuple[str, ...]:
    """Every artifact suffix, longest first, so that the first match is the most specific."""
    suffixes = {suffix for name in finder.formats() for suffix in finder.get(name).suffixes}
    return tuple(sorted(suffixes, key=lambda suffix: (-len(suffix), suffix)))


def without_suffix(name: str, suffixes: tuple[str, ...]) -> str:
    """A file's name without its artifact suffix: what the model in it is called by default."""
    lower = name.lower()
    for suffix in suffixes:
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def describe_formats(finder: FormatFinder) -> str:
    """`onnx (.onnx), sklearn (.joblib, .pkl)`, for messages."""
    parts = []
    for name in finder.formats():
        suffixes = ", ".join(finder.get(name).suffixes)
        parts.append(f"{name} ({suffixes})" if suffixes else name)
    return ", ".join(parts) or "none"
