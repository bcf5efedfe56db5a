"""The commands about credentials of places: set, list, delete. Values go to the server and nowhere
else: nothing that is printed shows one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import typer
import yaml

from shoal.cli import render
from shoal.cli.files import read_small, shown
from shoal.cli.flags import taking
from shoal.cli.target import AsJson, ask, complete_credentials
from shoal.domain.errors import InvalidSpecification
from shoal.domain.views import CredentialsDeleted, CredentialsList, CredentialsView

app = typer.Typer(
    help="Credentials by name, for artifacts in object stores, on web servers and so on, in the "
    "registry.",
    no_args_is_help=True,
)

Name: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="Name of the credentials, for 'shoal register --credentials'; default_TYPE is used "
        "where no name is said.",
        metavar="NAME",
        autocompletion=complete_credentials,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class SetFlags:
    """Of `shoal credentials set`."""

    name: Name
    type: Annotated[
        str | None,
        typer.Option(
            "--type", help="s3, gcs, azure, http, hf, oci, git or mlflow.", show_default=False),
    ] = None
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take them from this file, in JSON or YAML: an object with the field 'type' and "
            "its fields, a storage-config that has the NAME, or one of KServe's secrets; - is "
            "standard input.",
        ),
    ] = None
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VARIABLE",
            help="A field from a variable of the environment; may be repeated.",
        ),
    ] = None
    file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=FILE",
            help="A field from a whole file, such as certificate=ca.pem; may be repeated.",
        ),
    ] = None
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="A field; may be repeated. Not for secrets: every user of this machine can read "
            "the arguments of a command.",
        ),
    ] = None
    as_json: AsJson = False


@app.command("set")
@taking(SetFlags)
def set_(context: typer.Context, flags: SetFlags) -> None:
    """Keep credentials in the registry, for all instances, or replace those of that name.

    What is not said is not set. The fields are those of docs/places.md; options win over --from.
    Without storage.credentials_key_file the registry keeps them as they are, and whoever can read
    it can read them.
    """
    from shoal.client import calls

    entry = _entry(flags)
    if not entry:
        raise typer.BadParameter("say the --type and its fields, or --from a file")
    call = calls.set_credentials(flags.name, entry)
    view = ask(context, call, CredentialsView, as_json=flags.as_json)
    if view is None:
        return
    render.say(f"set {view.name} ({view.type}): {', '.join(view.fields) or 'no field'}")
    if not view.encrypted:
        render.warn("the registry keeps them as they are: whoever can read it can read them; "
                    "storage.credentials_key_file of the server has them encrypted")


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the credentials that the server knows, and which of their fields are set."""
    from shoal.client import calls

    found = ask(context, calls.credentials(), CredentialsList, as_json=as_json)
    if found is None:
        return
    if found.credentials:
        render.table(
            ("NAME", "TYPE", "FIELDS", "SOURCE", "ENCRYPTED", "NOTE"),
            (
                (each.name, each.type or "-", ", ".join(each.fields) or "-", each.source,
                 {True: "yes", False: "no", None: "-"}[each.encrypted], each.problem or "")
                for each in found.credentials
            ),
        )
    elif not found.problems:
        render.say("no credentials yet")
    render.problems(found.problems)


@app.command("delete")
def delete(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Take credentials out of the registry, also where models use them."""
    from shoal.client import calls

    gone = ask(context, calls.delete_credentials(name), CredentialsDeleted, as_json=as_json)
    if gone is None:
        return
    render.say(f"deleted {gone.name}")
    if gone.models:
        used = render.plural(gone.models, "model uses", "models use")
        render.warn(f"{used} them: {render.first_of(gone.models, gone.first)}; what is loaded or "
                    "downloaded stays, what must be read again cannot be")


# --- what they read -----------------------------------------------------------------------------


def _entry(flags: SetFlags) -> dict[str, object]:
    """What is sent: the type and its fields."""
    entry = {} if flags.source is None else _from(flags.source, flags.name)
    entry |= dict(_pairs("--field", flags.field))
    for field, variable in _pairs("--env", flags.env):
        value = os.environ.get(variable)
        if not value:
            raise InvalidSpecification(
                f"--env {field}={variable}: the variable is not set; set it, or name another")
        entry[field] = value
    for field, path in _pairs("--file", flags.file):
        try:
            entry[field] = read_small(Path(path), "credentials").decode()
        except UnicodeDecodeError:
            raise InvalidSpecification(f"--file {field}={path}: it is no text") from None
    return entry if flags.type is None else {**entry, "type": flags.type}


def _pairs(flag: str, given: list[str] | None) -> Iterator[tuple[str, str]]:
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:  # what stands there may be a secret
            raise InvalidSpecification(f"{flag}: expected FIELD=…, such as region=eu-central-1")
        yield name, value


def _from(path: Path, name: str) -> dict[str, object]:
    """An entry, or that of `name` in a storage-config. No error shows the file's text."""
    entry = _object(read_small(path, "credentials"), shown(path))
    within = entry.get(name)
    if "type" not in entry and isinstance(within, Mapping | str):
        where = f"{shown(path)}: key {name!r}"
        return _object(within.encode(), where) if isinstance(within, str) else dict(within)
    if "type" not in entry and entry and all(isinstance(each, Mapping) for each in entry.values()):
        raise InvalidSpecification(
            f"{shown(path)} has no credentials {name!r}; it has {', '.join(map(str, entry))}")
    return entry


def _object(text: bytes, where: str) -> dict[str, object]:
    try:
        content: object = _json_or_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise InvalidSpecification(f"{where} is neither JSON nor YAML{at}; correct it") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InvalidSpecification(f"{where} is neither JSON nor YAML; correct it") from None
    if not isinstance(content, Mapping):
        raise InvalidSpecification(f"{where} holds no object; expected one with the field 'type'")
    return {str(key): value for key, value in content.items()}


def _json_or_yaml(text: bytes) -> object:
    """Of YAML every value as it is written: a password of digits is no number."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return yaml.load(text.decode(), yaml.BaseLoader)
