"""Reads what is said of a model on a command line, or in the file that goes with it.

Raises InvalidSpecification, which names the flag or the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from shoal.cli.model_lists import absolute
from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import JsonValue


def from_file(file: Path) -> dict[str, object]:
    """The fields in a file of `shoal register --file`; its folder is the default URI."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpecification(f"file {file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes, or a date that is none
        raise InvalidSpecification(f"file {file}: not valid YAML: {error}") from None
    if not isinstance(content, Mapping):
        raise InvalidSpecification(
            f"file {file}: holds no fields; expected for example 'format: onnx'"
        )
    fields = {str(key): value for key, value in content.items()}
    folder = file.absolute().parent
    uri = fields.get("uri")
    fields["uri"] = absolute(uri, folder) if isinstance(uri, str) else str(folder)
    return fields


def policy(text: str) -> dict[str, object]:
    """Of `--version-policy`."""
    kind, _, rest = text.partition(":")
    try:
        if text == "all":
            return {}
        if kind == "latest":
            return {"latest": int(rest)}
        if kind == "specific":
            return {"specific": [int(part) for part in rest.split(",")]}
    except ValueError:
        pass
    raise InvalidSpecification(
        f"--version-policy {text!r}: expected all, latest:N or specific:V,W, such as latest:2"
    )


def pair(flag: str, text: str) -> tuple[str, str]:
    """KEY and VALUE; the value may be empty."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidSpecification(f"{flag} {text!r}: expected KEY=VALUE")
    return key, value


def json_or_text(text: str) -> JsonValue:
    """The JSON that a text is, or the text."""
    try:
        value: JsonValue = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value
