"""Credentials in the registry, as users see them: set through one server, used by all, shown by
none."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.etcd_server import EtcdServer
from tests.object_stores import KEYS, S3Server
from tests.served import Served, until
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.domain.errors import InvalidSpecification, NotFound

if TYPE_CHECKING:
    from examples.cases import Case

SECRET = KEYS["secret_access_key"]
Serve = Callable[..., Served]


@pytest.fixture
def model(
    s3_server: S3Server, example_cases: tuple[Path, list[Case]]
) -> tuple[str, Case]:
    """The URI of a model in a bucket, and what it answers."""
    folder, cases = example_cases
    bucket = s3_server.bucket(
        {"iris-net/model.onnx": (folder / "iris-net/model.onnx").read_bytes()})
    return f"s3://{bucket}/iris-net", next(case for case in cases if case.model == "iris-net")


def fields(s3_server: S3Server) -> dict[str, str]:
    return {"endpoint_url": s3_server.url, "region": "us-east-1", **KEYS}


def answers(server: Served, name: str, case: Case) -> bool:
    return server.infer(name, case.request).status_code == 200


def knows(server: Served, name: str) -> bool:
    return any(each.name == name and not each.problem for each in server.client.list_credentials())


def said(server: Served) -> str:
    return json.dumps(server.logs) + "".join(server.other_lines)


def shoal(server: Served, *arguments: str, environ: dict[str, str]) -> str:
    target = ["--server", server.url, "--management", server.management]
    ended = CliRunner().invoke(app, [*target, *arguments], env=environ)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_what_the_command_line_sets_reads_a_model_and_is_shown_nowhere(
    serve: Serve, s3_server: S3Server, model: tuple[str, Case], tmp_path: Path
) -> None:
    uri, case = model
    server = serve()
    text = shoal(
        server, "credentials", "set", "farm", "--type", "s3", "--env",
        "secret_access_key=FARM", "--field", f"access_key_id={KEYS['access_key_id']}", "--field",
        f"endpoint_url={s3_server.url}", "--field", "region=us-east-1", environ={"FARM": SECRET})
    assert "whoever can read it can read them" in text
    text += shoal(server, "credentials", "list", "--json", environ={})
    server.client.register("net", uri, credentials="farm")
    assert answers(server, "net", case)
    with pytest.raises(InvalidSpecification, match=r"'fram' are not known; known are farm"):
        server.client.register("other", uri, credentials="fram")
    with pytest.raises(InvalidSpecification, match="'secret' is not known"):
        server.client.set_credentials("farm", "s3", secret=SECRET)
    text += shoal(server, "events", "--json", environ={})
    text += shoal(server, "settings", "--json", environ={})
    text += shoal(server, "credentials", "delete", "farm", environ={})
    assert "1 model uses them: net" in text
    assert answers(server, "net", case)  # it is loaded
    with pytest.raises(NotFound):
        server.client.get_credentials("farm")
    assert server.find("credentials 'farm' were set (s3)") is not None
    assert SECRET not in text + said(server)


def test_a_value_that_was_changed_counts_without_a_restart(
    serve: Serve, s3_server: S3Server, model: tuple[str, Case]
) -> None:
    uri, case = model
    server = serve("--load-retry-base-s", "0.1", "--load-retry-max-s", "0.1", "--cache-fill",
                   "none")
    right = fields(s3_server)
    server.client.set_credentials("farm", "s3", **right)
    server.client.register("net", uri, credentials="farm", read=False, format="onnx",
                           digest="sha256:" + "0" * 64)
    server.client.set_credentials("farm", "s3", **{**right, "endpoint_url": "http://127.0.0.1:1"})
    wrong = server.infer("net", case.request)
    assert wrong.status_code == 503
    assert "it refuses connections" in wrong.text
    server.client.set_credentials("farm", "s3", **right)
    until(lambda: "not what was declared" in server.infer("net", case.request).text,
          "the bucket to be read")
    assert SECRET not in wrong.text + said(server)


@pytest.mark.parametrize("registry", ["sqlite", "etcd"])
def test_what_one_instance_of_a_mesh_is_told_the_other_uses(
    serve: Serve, s3_server: S3Server, etcd_server: EtcdServer, model: tuple[str, Case],
    tmp_path: Path, registry: str,
) -> None:
    uri, case = model
    key_file = tmp_path / "key"
    key_file.write_text(secrets.token_hex(32) + "\n")
    url = f"sqlite://{tmp_path}/registry" if registry == "sqlite" else (
        f"{etcd_server.url}/credentials")
    flags = ("--registry-url", url, "--mesh-join", "on", "--storage-credentials-key-file", key_file)
    first = serve(*flags, data_dir=tmp_path / "first")
    second = serve(*flags, data_dir=tmp_path / "second")
    assert first.client.set_credentials("default_s3", "s3", **fields(s3_server)).encrypted is True
    until(lambda: knows(second, "default_s3"), "the other hears of them")
    second.client.register("net", uri)
    until(lambda: answers(first, "net", case), "the model")
    assert answers(second, "net", case)
    assert second.client.delete_credentials("default_s3").first == ["net"]
    until(lambda: not knows(first, "default_s3"), "the other hears of their end")
    assert SECRET not in said(first) + said(second)


def test_the_key_is_needed_again_after_a_restart(
    serve: Serve, s3_server: S3Server, model: tuple[str, Case], tmp_path: Path
) -> None:
    uri, case = model
    key_file = tmp_path / "key"
    key_file.write_text(secrets.token_hex(32) + "\n")
    with Served("--storage-credentials-key-file", key_file, data_dir=tmp_path / "data") as server:
        server.client.set_credentials("farm", "s3", **fields(s3_server))
        server.process.send_signal(signal.SIGKILL)
    for file in (tmp_path / "data").glob("registry*"):
        assert SECRET.encode() not in file.read_bytes()
    with Served(data_dir=tmp_path / "data") as without:
        assert any("'farm' in the registry are encrypted" in str(each.get("event"))
                   and each["level"] == "warning" for each in without.logs)
        assert "has no key" in (without.client.get_credentials("farm").problem or "")
        with pytest.raises(InvalidSpecification, match=r"has no key; say the file with it by"):
            without.client.register("net", uri, credentials="farm")
    with Served("--storage-credentials-key-file", key_file, data_dir=tmp_path / "data") as again:
        again.client.register("net", uri, credentials="farm")
        assert answers(again, "net", case)


def test_a_key_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("SECRET\n")
    ended = subprocess.run(
        [Path(sys.executable).with_name("shoal"), "serve", "--http-port", "0", "--grpc-port", "0",
         "--management-port", "0", "--data-dir", tmp_path / "data",
         "--storage-credentials-key-file", tmp_path / "key"],
        capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 5
    assert "storage.credentials_key_file" in ended.stderr
    assert "line 1 is no key" in ended.stderr
    assert "SECRET" not in ended.stderr
    assert "Traceback" not in ended.stderr
