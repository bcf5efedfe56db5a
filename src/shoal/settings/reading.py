"""Reads the settings: merges defaults, file, environment and flags, and refuses unknown ones.

A setting `group.name` is the flag `--group-name`, the environment variable `SHOAL_GROUP_NAME` and
the key `name` under `group` in the YAML file of `--config`. A flag wins over the environment, which
wins over the file. An unknown name or a wrong value anywhere is an InvalidSpecification.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from functools import cache
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import JsonValue
from shoal.settings.groups import Settings
from shoal.settings.kinds import Group, parse_bytes

# Variables that begin like ours and are not settings: the command line's, and those that Kubernetes
# sets for a Service named "shoal" (https://kubernetes.io/docs/concepts/services-networking/service/).
_FOREIGN_VARIABLES: Final = re.compile(
    r"SHOAL_(SERVER|MANAGEMENT|TIMEOUT|CONFIG|PORT|PORT_\d+_.*|SERVICE_.*)"
)


@dataclass(frozen=True, slots=True)
class SettingField:
    """One setting. path: `group.name`. default: as people write it. kind: `text`, `number`, `size`,
    `switch` or the words to choose from, joined by `|`. secret: its value is never shown."""

    path: str
    doc: str
    default: JsonValue
    kind: str
    secret: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.path.replace(".", "-").replace("_", "-")

    @property
    def short_flag(self) -> str | None:
        """Of what a group is mostly about: `--registry` for `registry.url`."""
        return self.flag.removesuffix("-url") if self.path.endswith(".url") else None

    @property
    def variable(self) -> str:
        return "SHOAL_" + self.path.replace(".", "_").upper()

    @property
    def group(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def is_bool(self) -> bool:
        return self.kind == "switch"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings in force and where each comes from, by path: `default`, `file`, `environment` or
    `flag`. given: what was said, by path, as it was said; may hold secrets."""

    settings: Settings
    sources: Mapping[str, str]
    given: Mapping[str, object] = attribute(default_factory=dict)


@cache
def setting_fields() -> tuple[SettingField, ...]:
    """Every setting, top-level ones first, in the order of their declaration."""
    return tuple(
        sorted(_fields(Settings, ""), key=lambda field: field.group != "")
    )


def value_of(settings: Settings, path: str) -> JsonValue:
    """The value of the setting `path` as JSON shows it; a secret as asterisks."""
    value: JsonValue = settings.model_dump(mode="json")
    for part in path.split("."):
        assert isinstance(value, dict)
        value = value[part]
    return value


def read_settings(
    flags: Mapping[str, str | bool], environ: Mapping[str, str], file: Path | None = None
) -> Configuration:
    """Merge defaults, the YAML `file`, `environ` and `flags` (raw values by path), later ones win.

    Raises InvalidSpecification naming the setting, where it was said, and what is expected.
    """
    given: dict[str, object] = {}
    sources = {field.path: "default" for field in setting_fields()}
    for source, values in (
        ("file", _from_file(file) if file else {}),
        ("environment", _from_environment(environ)),
        ("flag", dict(flags)),
    ):
        given |= values
        sources |= dict.fromkeys(values, source)
    return restore_settings(given, sources)


def restore_settings(given: Mapping[str, object], sources: Mapping[str, str]) -> Configuration:
    """The configuration with this `given` and these `sources`, as another process read it.

    Raises InvalidSpecification as `read_settings`.
    """
    nested: dict[str, object] = {}
    for path, value in given.items():
        group, _, name = path.rpartition(".")
        target = nested.setdefault(group, {}) if group else nested
        assert isinstance(target, dict)
        target[name] = value
    try:
        return Configuration(Settings.model_validate(nested), sources, given)
    except ValidationError as error:
        raise _refused(error, sources) from None


def _fields(model: type[BaseModel], prefix: str) -> Iterator[SettingField]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            yield from _fields(field.annotation, f"{name}.")
            continue
        default = field.default
        shown = ",".join(default) if isinstance(default, tuple) else default
        yield SettingField(
            path=prefix + name,
            doc=" ".join((field.description or "").split()),
            default=str(shown) if isinstance(shown, Path | SecretStr) else shown,
            kind=_kind(field.annotation, field.metadata),
            secret=field.annotation is SecretStr,
        )


def _kind(annotation: object, metadata: Iterable[object]) -> str:
    if annotation is bool:
        return "switch"
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    if any(getattr(rule, "func", None) is parse_bytes for rule in metadata):
        return "size"
    return "number" if annotation in (int, float) else "text"


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    paths = {field.variable: field.path for field in setting_fields()}
    found: dict[str, object] = {}
    for variable, value in environ.items():
        if variable in paths:
            found[paths[variable]] = value
        elif variable.startswith("SHOAL_") and not _FOREIGN_VARIABLES.fullmatch(variable):
            raise InvalidSpecification(
                f"environment variable {variable} is no setting{_perhaps(variable, paths)}"
            )
    return found


def _from_file(file: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpecification(
            f"settings file {file}: cannot be read: {error.strerror}"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes, or a date that is none
        reason = " ".join(str(error).split())
        raise InvalidSpecification(f"settings file {file}: not valid YAML: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidSpecification(
            f"settings file {file}: holds a {type(content).__name__}; expected groups of settings, "
            "such as 'http: {port: 8080}'"
        )
    paths = {field.path: field.path for field in setting_fields()}
    groups = {field.group for field in setting_fields()}
    found: dict[str, object] = {}
    for key, value in content.items():
        if key in groups and isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif key in groups:
            raise InvalidSpecification(
                f"settings file {file}: group '{key}' holds {value!r}; expected names and values"
            )
        else:
            found[str(key)] = value
    for path in found:
        if path not in paths:
            raise InvalidSpecification(
                f"settings file {file}: '{path}' is no setting{_perhaps(path, paths)}"
            )
    return found


def _perhaps(wrong: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; 'shoal serve --help' lists all"


def _refused(error: ValidationError, sources: Mapping[str, str]) -> InvalidSpecification:
    fields = {field.path: field for field in setting_fields()}
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"][:2])
        if path not in fields:
            path = str(problem["loc"][0])
        source = sources.get(path, "default")
        field = fields[path]
        said = {"flag": field.flag, "environment": field.variable}.get(source, f"{path} ({source})")
        reason = problem["msg"].removeprefix("Value error, ")
        value = "its value" if field.secret else repr(problem["input"])
        lines.append(f"setting {said}: {value}: {reason[0].lower()}{reason[1:]}")
    return InvalidSpecification("; ".join(lines))
