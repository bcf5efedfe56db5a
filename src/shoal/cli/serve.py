"""The command that runs a server. Its flags are the settings, each with the setting's own words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from shoal.cli.flags import declare, parameter
from shoal.cli.render import size
from shoal.domain.errors import InvalidSpecification
from shoal.settings import SettingField, read_settings, setting_fields
from shoal.storage.uri import is_remote, local_path

_FIRST: Final = (
    "host", "http.port", "grpc.port", "management.port", "data_dir", "memory", "workers",
    "registry.url",
)
# Side by side, away from their groups, these need to say which port they are.
_ABOUT: Final = {
    "http.port": "Inference over HTTP: ",
    "grpc.port": "Inference over gRPC: ",
    "management.port": "The management API and metrics: ",
}
_METAVARS: Final = {"text": "TEXT", "number": "NUMBER", "size": "SIZE"}
_ACRONYMS: Final = {"http": "HTTP", "grpc": "gRPC", "": "Instance"}

_HELP: Final = """Serve models over HTTP: those in the given folders, and those that are registered.

Each child of a DIR is a model: a file, a folder with one, or a folder of numeric version folders.
Changes in the folders take effect without a restart. Every setting is a flag here, a variable in
the environment and a key in the file of --config; a flag wins over a variable, a variable over the
file.
"""

Folders = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DIR", help="Folders of models to serve and to watch: paths, or URIs of places "
        "such as s3://bucket/models.", show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="SHOAL_CONFIG",
        help="YAML file of settings.",
        show_default=False,
    ),
]


def serve_command() -> Callable[..., None]:
    """The function behind `shoal serve`, with one parameter for every setting."""

    def serve(folders: list[str] | None, config: Path | None, **given: str | bool | None) -> None:
        flags = {
            _path_of[name]: value for name, value in given.items() if value is not None
        }
        _serve(folders or [], config, flags)

    ordered = sorted(setting_fields(), key=_rank)
    _path_of = {_parameter_name(field): field.path for field in ordered}
    settings = [parameter(_parameter_name(field), _annotation(field), None) for field in ordered]
    first, rest = settings[: len(_FIRST)], settings[len(_FIRST) :]
    folders, config = parameter("folders", Folders, None), parameter("config", Config, None)
    serve.__doc__ = _HELP
    return declare(serve, serve, [folders, *first, config, *rest])


def _serve(given: list[str], config: Path | None, flags: dict[str, str | bool]) -> None:
    folders = [each if is_remote(each) else str(_folder(each)) for each in given]
    configuration = read_settings(flags, os.environ, config)
    settings = configuration.settings
    if settings.workers != 1 or settings.recycle.supervise:
        from shoal.workers.launch import count_workers, launch

        if count_workers(settings) > 1 or settings.recycle.supervise:
            launch(configuration, folders)
    from shoal.app import serve

    raise typer.Exit(serve(configuration, folders))


def _folder(given: str) -> Path:
    path = local_path(given)
    if not path.is_dir():
        is_what = "is a file" if path.exists() else "does not exist"
        raise InvalidSpecification(
            f"folder {given} {is_what}; give the folder whose children are the models"
        )
    return path


def _rank(field: SettingField) -> int:
    """The flags that people need first; the others stay in the order of their groups."""
    return _FIRST.index(field.path) if field.path in _FIRST else len(_FIRST)


def _parameter_name(field: SettingField) -> str:
    return field.path.replace(".", "__")


def _annotation(field: SettingField) -> object:
    panel = None if field.path in _FIRST else _ACRONYMS.get(field.group, field.group.capitalize())
    words = f"{_ABOUT.get(field.path, '')}{field.doc} ({_default(field)}; {field.variable})"
    if field.is_bool:
        off = "--no-" + field.flag.removeprefix("--")
        return Annotated[
            bool | None,
            typer.Option(f"{field.flag}/{off}", help=words, rich_help_panel=panel,
                         show_default=False),
        ]
    metavar = _METAVARS.get(field.kind, field.kind)
    return Annotated[
        str | None,
        typer.Option(*_flags(field), metavar=metavar, help=words, rich_help_panel=panel,
                     show_default=False),
    ]


def _flags(field: SettingField) -> list[str]:
    return [field.flag, *([field.short_flag] if field.short_flag else [])]


def _default(field: SettingField) -> str:
    if field.is_bool:
        return "on by default" if field.default else "off by default"
    if field.default in ("", None):
        return "default: none"
    if field.kind == "size" and isinstance(field.default, int):
        return f"default: {size(field.default).replace('.0 ', ' ')}"
    return f"default: {field.default}"
