"""What a file beside an artifact says of it, whichever server the file was written for.

Holds values and the rule of precedence; reading the files is for `model_yaml`, `mlserver` and
`triton`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelSpec
from shoal.storage.files import reading

MAX_DESCRIPTION_BYTES: Final = 1024 * 1024
"""A larger description is a mistake: real ones have a few KiB."""

BLANK: Final = ModelSpec(name="", uri="")


@dataclass(frozen=True, slots=True)
class Description:
    """Fields of `spec` at their defaults, and an empty name or uri, mean that nothing was said.

    source: the file that says it, for messages; a relative `spec.uri` is meant from its folder.
    filename: the artifact's name inside its (version) folder; it must be there.
    usual: names that the server looks for when nothing is said; tried in order.
    version: where there are no version folders.
    """

    source: Path
    spec: ModelSpec = BLANK
    filename: str | None = None
    usual: tuple[str, ...] = ()
    version: int | None = None


def complete(spec: ModelSpec, described: ModelSpec) -> ModelSpec:
    """`spec`, with what it leaves at the default taken from `described`: what is said in the
    registration wins over what is said beside the artifact. Pairs of `options` and `labels` are
    united. Name and uri stay, and so does `trust`, which is for nobody but the registration."""
    taken: dict[str, object] = {}
    for field in spec.__struct_fields__:
        said, default = getattr(spec, field), getattr(BLANK, field)
        if field in ("name", "uri", "trust"):
            continue
        if isinstance(default, dict):
            taken[field] = {**getattr(described, field), **said}
        elif said == default:
            taken[field] = getattr(described, field)
    return msgspec.structs.replace(spec, **taken)


def merge(first: Description, second: Description) -> Description:
    """Both together; `first` wins."""
    spec = complete(first.spec, second.spec)
    return Description(
        source=first.source if first.spec.uri or not second.spec.uri else second.source,
        spec=msgspec.structs.replace(
            spec, name=first.spec.name or second.spec.name, uri=first.spec.uri or second.spec.uri
        ),
        filename=first.filename or second.filename,
        usual=first.usual or second.usual,
        version=first.version or second.version,
    )


def read_text(path: Path) -> str:
    """The text of a description. Raises InvalidSpecification when it is too large, no regular file
    or not UTF-8; ArtifactMissing when it cannot be read."""
    with reading(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as source:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidSpecification(f"{path} is no regular file; write a description there")
            content = source.read(MAX_DESCRIPTION_BYTES + 1)
    if len(content) > MAX_DESCRIPTION_BYTES:
        raise InvalidSpecification(
            f"{path} has more than {MAX_DESCRIPTION_BYTES:,} bytes, too many for a description"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSpecification(
            f"{path} is not UTF-8 at byte {error.start}; save it with that encoding"
        ) from error
