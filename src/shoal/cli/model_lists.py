"""Reads files that list models: JSON Lines, or a list in JSON or YAML. Each model is given as the
JSON of its specification, with the line it stands in.

What is wrong with one of them is told with file and line. Knows no server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import yaml

from shoal.cli.files import shown
from shoal.domain.errors import InvalidSpecification
from shoal.storage.uri import is_remote

_JSON_SPACE: Final = b" \t\r\n"
_YAML_SUFFIXES: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Line:
    """A model of a list. body: its specification as JSON. name: "" while `problem` says why there
    is no specification."""

    number: int
    name: str = ""
    body: bytes = b""
    problem: str | None = None


def absolute(uri: str, base: Path | None = None) -> str:
    """Local paths made absolute, since the server runs elsewhere; URIs as they are."""
    if "://" in uri or is_remote(uri):
        return uri
    return str(((base or Path.cwd()) / Path(uri).expanduser()).absolute())


def specifications(source: BinaryIO, path: Path, base: Path) -> Iterator[Line]:
    """The models of a list, from its beginning. base: the folder that relative paths are meant
    from. Raises InvalidSpecification where the list itself cannot be read."""
    from shoal.client.declaring import read_spec

    def read(number: int, value: object) -> Line:
        if not isinstance(value, Mapping):
            return Line(number, problem="it is no object with the fields of a model; expected for "
                        'example {"name": "iris", "uri": "/models/iris"}')
        fields = {str(key): each for key, each in value.items()}
        name, uri = fields.get("name"), fields.get("uri")
        named = name if isinstance(name, str) else ""
        if isinstance(uri, str):
            fields["uri"] = absolute(uri, base)
        try:
            spec = read_spec(fields)
        except InvalidSpecification as error:
            return Line(number, named, problem=error.message)
        return Line(number, spec.name, msgspec.json.encode(spec))

    return _entries(source, path, read)


def names(source: BinaryIO, path: Path) -> Iterator[Line]:
    """The names in a list of models or of names, or in lines of one name each."""
    def read(number: int, value: object) -> Line:
        name = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(name, str) and name:
            return Line(number, name)
        return Line(number, problem="it says no name; expected a name, or an object with one")

    return _entries(source, path, read, bare=True)


Read = Callable[[int, object], Line]


def _entries(
    source: BinaryIO, path: Path, read: Read, *, bare: bool = False
) -> Iterator[Line]:
    source.seek(0)
    if path.suffix.lower() in _YAML_SUFFIXES:
        return _yaml_list(source.read(), path, read)
    if _first_byte(source) == b"[":
        return _json_list(source.read(), path, read)
    return _json_lines(source, read, bare)


def _first_byte(source: BinaryIO) -> bytes:
    """The first one that is no space; the source is at its beginning again then."""
    first = b""
    while (block := source.read(4096)) and not first:
        first = block.lstrip(_JSON_SPACE)[:1]
    source.seek(0)
    return first


def _json_lines(source: BinaryIO, read: Read, bare: bool) -> Iterator[Line]:
    for number, text in enumerate(source, 1):
        text = text.strip(_JSON_SPACE)
        if not text:
            continue
        try:
            if bare and not text.startswith((b"{", b'"')):
                yield read(number, text.decode())
            else:
                yield read(number, msgspec.json.decode(text))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield Line(number, problem=f"it is not JSON: {error}; write one object a line")


def _json_list(content: bytes, path: Path, read: Read) -> Iterator[Line]:
    try:
        items = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidSpecification(
            f"{shown(path)}: not valid JSON: {error}; write a list, or one object a line"
        ) from None
    number, read_to = 1, 0
    for item in items:
        text = bytes(item)
        at = content.index(text, read_to)
        number += content.count(b"\n", read_to, at)
        yield read(number, msgspec.json.decode(text))
        number += text.count(b"\n")
        read_to = at + len(text)


def _yaml_list(content: bytes, path: Path, read: Read) -> Iterator[Line]:
    try:
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        if not isinstance(node, yaml.SequenceNode):
            raise InvalidSpecification(
                f"{shown(path)}: holds no list; write '- name: …' and '  uri: …' for each model")
        found = [
            (item.start_mark.line + 1, loader.construct_object(item, deep=True))
            for item in node.value
        ]
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes, or a date that is none
        raise InvalidSpecification(f"{shown(path)}: not valid YAML: {error}") from None
    return (read(number, value) for number, value in found)
