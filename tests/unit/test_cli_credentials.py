"""The command line: credentials, whose values come from anywhere and are shown nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tests.canned_server import CannedServer, json_of
from tests.canned_views import API, Shoal

from shoal.cli.target import complete_credentials
from shoal.domain.views import CredentialsDeleted, CredentialsList, CredentialsView

SET = ("credentials", "set", "farm")
PATH = f"PUT {API}/credentials/farm"
VIEW = CredentialsView("farm", "s3", ["access_key_id", "secret_access_key"], "registry", True)


@pytest.fixture(autouse=True)
def answers(server: CannedServer) -> None:
    server.answers(PATH, json_of(VIEW))


def sent(server: CannedServer) -> object:
    return server.asked[-1].json


def test_fields_come_from_arguments_variables_and_files(
    server: CannedServer, shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_SECRET", "SECRET")
    (tmp_path / "ca.pem").write_text("-----BEGIN\n")
    result = shoal(*SET, "--type", "s3", "--field", "access_key_id=A=B", "--env",
                   "secret_access_key=FARM_SECRET", "--file", f"certificate={tmp_path}/ca.pem")
    assert result.stdout == "set farm (s3): access_key_id, secret_access_key\n"
    assert result.stderr == ""
    assert sent(server) == {"type": "s3", "access_key_id": "A=B", "secret_access_key": "SECRET",
                            "certificate": "-----BEGIN\n"}


def test_what_is_stored_readable_is_said(server: CannedServer, shoal: Shoal) -> None:
    server.answers(PATH, json_of(CredentialsView("farm", "s3", ["region"], "registry", False)))
    result = shoal(*SET, "--type", "s3", "--field", "region=eu")
    assert "whoever can read it can read them" in result.stderr
    assert "storage.credentials_key_file" in result.stderr
    assert json.loads(shoal(*SET, "--type", "s3", "--json").stdout)["encrypted"] is False


@pytest.mark.parametrize(("name", "text"), [
    ("c.json", '{"type": "s3", "access_key_id": "A", "verify_ssl": false}'),
    ("c.json", '{"farm": {"type": "s3", "access_key_id": "A", "verify_ssl": false}, "x": {}}'),
    ("c.json", '{"farm": "{\\"type\\": \\"s3\\", \\"access_key_id\\": \\"A\\", '
               '\\"verify_ssl\\": false}"}'),
], ids=["entry", "storage-config", "storage-config-of-texts"])
def test_a_file_has_them_as_an_entry_or_among_others(
    server: CannedServer, shoal: Shoal, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    assert shoal(*SET, "--from", f"{tmp_path}/{name}").exit_code == 0
    assert sent(server) == {"type": "s3", "access_key_id": "A", "verify_ssl": False}


def test_values_in_yaml_are_taken_as_they_are_written(server: CannedServer, shoal: Shoal) -> None:
    written = "type: git\nhost: h\npassword: 0123\nusername: yes\n"
    assert shoal(*SET, "--from", "-", stdin=written).exit_code == 0
    assert sent(server) == {"type": "git", "host": "h", "password": "0123", "username": "yes"}


def test_options_win_over_the_file(server: CannedServer, shoal: Shoal) -> None:
    shoal(*SET, "--from", "-", "--type", "s3", "--field", "region=b", stdin='{"region": "a"}')
    assert sent(server) == {"type": "s3", "region": "b"}


@pytest.mark.parametrize(("arguments", "stdin", "story"), [
    (["--field", "SECRET"], None, "--field: expected FIELD=…"),
    (["--env", "token=NOT_THERE"], None, "the variable is not set"),
    (["--file", "token=/none/at/all"], None, "/none/at/all: cannot be read: No such file"),
    (["--from", "-"], "{SECRET", "standard input is neither JSON nor YAML at line 1"),
    (["--from", "-"], "SECRET", "holds no object"),
    (["--from", "-"], '{"minio": {"type": "s3"}}', "no credentials 'farm'; it has minio"),
    (["--from", "-"], '{"farm": "SECRET"}', "key 'farm' holds no object"),
    (["--from", "-"], '{"x": "' + "SECRET" * 200_000 + '"}', "larger than 1 MiB"),
], ids=range(8))
def test_what_cannot_be_read_is_told_and_not_shown(
    server: CannedServer, shoal: Shoal, arguments: list[str], stdin: str | None, story: str
) -> None:
    result = shoal(*SET, *arguments, stdin=stdin)
    assert result.exit_code == 5
    assert story in result.stderr
    assert "SECRET" not in result.output
    assert server.asked == []


def test_nothing_said_is_wrong_usage(shoal: Shoal) -> None:
    assert shoal(*SET).exit_code == 2


def test_they_are_listed_with_what_is_wrong(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {API}/credentials", json_of(CredentialsList(
        [VIEW, CredentialsView("old", "", [], "registry", True, "no key")], ["c.json is gone"])))
    result = shoal("credentials", "list")
    heading, farm, old = result.stdout.splitlines()
    assert heading.split() == ["NAME", "TYPE", "FIELDS", "SOURCE", "ENCRYPTED", "NOTE"]
    assert farm.split() == ["farm", "s3", "access_key_id,", "secret_access_key", "registry", "yes"]
    assert old.endswith("no key")
    assert "problem: c.json is gone" in result.stderr
    assert len(json.loads(shoal("credentials", "list", "--json").stdout)["credentials"]) == 2
    server.answers(f"GET {API}/credentials", json_of(CredentialsList([])))
    assert shoal("credentials", "list").stdout == "no credentials yet\n"


def test_deleting_names_the_models_that_use_them(server: CannedServer, shoal: Shoal) -> None:
    path = f"DELETE {API}/credentials/farm"
    server.answers(path, json_of(CredentialsDeleted("farm", 12, ["a", "b"])))
    result = shoal("credentials", "delete", "farm")
    assert result.stdout == "deleted farm\n"
    assert "12 models use them: a, b, …; what is loaded" in result.stderr
    assert json.loads(shoal("credentials", "delete", "farm", "--json").stdout)["models"] == 12
    server.answers(path, json_of(CredentialsDeleted("farm", 0, [])))
    assert shoal("credentials", "delete", "farm").stderr == ""


def test_names_are_completed(server: CannedServer) -> None:
    server.answers(f"GET {API}/credentials", json_of(CredentialsList([VIEW, VIEW])))
    context = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    context.params = {"server": server.url, "management": server.url}
    assert complete_credentials(context, "fa") == ["farm"]
    context.params = {"server": "http://127.0.0.1:9", "management": "http://127.0.0.1:9"}
    assert complete_credentials(context, "fa") == []
