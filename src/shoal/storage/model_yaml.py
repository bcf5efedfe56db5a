"""Reads `model.yaml`: everything that a registration takes, written beside the artifact.

`name` may be left out (the file's or folder's name is taken) and so may `uri` (the artifact beside
it). Looks at no artifact.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import msgspec
import yaml

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelSpec
from shoal.storage.description import Description, read_text

FILE_NAMES: Final = ("model.yaml", "model.yml")
SUFFIXES: Final = (".yaml", ".yml")

_MAX_DEPTH: Final = 32  # libyaml's own composer recurses without a limit and overruns the stack


class _Loader(yaml.CSafeLoader):
    """YAML as JSON has it: dates stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def read_model_yaml(path: Path) -> Description:
    """Raises InvalidSpecification for anything that is not a mapping of ModelSpec's fields, naming
    the line, or the field and the way out; ArtifactMissing when `path` cannot be read."""
    return Description(path, parse_model_yaml(read_text(path), str(path)))


def parse_model_yaml(text: str, source: str) -> ModelSpec:
    """As `read_model_yaml`, from text; `source` names it in messages."""
    with reading_yaml(source):
        check_shape(text)
        content: object = yaml.load(text, Loader=_Loader)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InvalidSpecification(
            f"{source} is not a mapping of fields; write lines such as 'pin: true'"
        )
    check_fields(content, ModelSpec, source)
    _check_values(content, source, "")
    if content.get("optimize") is False:
        content["optimize"] = "off"  # which YAML 1.1 takes for "no"
    try:
        return msgspec.convert({"name": "", "uri": "", **content}, ModelSpec, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidSpecification(f"{source}: {_readable(error)}") from error


@contextmanager
def reading_yaml(source: str) -> Iterator[None]:
    """What YAML cannot be read becomes InvalidSpecification. source: names it in messages."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidSpecification(
            f"{source}{where}: {error.problem or error.context}; correct the YAML there"
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: `0x_`, a date that is none
        reason = " ".join(str(error).split())
        raise InvalidSpecification(f"{source}: {reason}; correct the YAML") from error


def check_shape(text: str) -> None:
    """Refuse what JSON cannot say, before anything is built: tags, aliases (a few lines of them can
    stand for gigabytes), and depth that would overrun the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*) are not supported; repeat the value", event)
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None):
            raise _refused("tags (!) are not supported; write plain values", event)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise _refused(f"nested deeper than {_MAX_DEPTH} levels", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _refused(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=cast("yaml.Mark", event.start_mark))


def check_fields(
    content: Mapping[object, object], kind: type[msgspec.Struct], source: str
) -> None:
    """Raise InvalidSpecification for a key that is no field of `kind`."""
    known = kind.__struct_fields__
    for key in content:
        if key in known:
            continue
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidSpecification(
            f"{source}: unknown field {key!r}; {hint}the fields are {', '.join(known)}"
        )


def _check_values(value: object, source: str, where: str) -> None:
    """Only what JSON can carry reaches the registry: text keys, finite numbers of 64 bits."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidSpecification(
                    f"{source}: the key {key!r}{_under(where)} is not text; put it in quotes"
                )
            _check_values(inner, source, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_values(inner, source, f"{where}[{index}]")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidSpecification(f"{source}: {where} does not fit in 64 bits; use a smaller one")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidSpecification(f"{source}: {where} is {value}; use a finite number")


def _under(where: str) -> str:
    return f" under {where!r}" if where else ""


def _readable(error: msgspec.ValidationError) -> str:
    field, text = field_and_problem(error)
    return f"{field}: {text[0].lower()}{text[1:]}; correct the value" if field else text


def field_and_problem(error: msgspec.ValidationError) -> tuple[str, str]:
    """The path of the wrong value as people write it, empty for all of it, and what msgspec says
    of it."""
    text, _, path = str(error).partition(" - at `$")
    return path.strip("`").lstrip("."), text
