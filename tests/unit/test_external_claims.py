"""Who may use a model server that runs already, and what models are called in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal.domain.model import Revision
from shoal.external.claim import Claim, runtime_folder
from shoal.external.interface import ServerFailed
from shoal.external.names import is_ours, server_name


def test_a_server_is_one_instances_and_the_other_hears_whose(tmp_path: Path) -> None:
    first = Claim("127.0.0.1:9000", "the instance 'a'", tmp_path)
    with pytest.raises(ServerFailed, match=r"is used by the instance 'a': .*declare a 'command'"):
        Claim("localhost:9000", "the instance 'b'", tmp_path)
    first.end()
    first.end()
    Claim("127.0.0.1:9000", "the instance 'b'", tmp_path).end()


def test_other_servers_are_others(tmp_path: Path) -> None:
    claims = [Claim(address, "a", tmp_path)
              for address in ("127.0.0.1:1", "127.0.0.1:2", "unix:/x/y", "unix:/x/z")]
    for claim in claims:
        claim.end()


def test_links_to_one_socket_are_one_server(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "socket")
    claim = Claim(f"unix:{tmp_path}/socket", "a", tmp_path)
    with pytest.raises(ServerFailed):
        Claim(f"unix:{tmp_path}/link", "b", tmp_path)
    claim.end()


def test_servers_of_other_machines_are_not_claimed(tmp_path: Path) -> None:
    Claim("models.example:9000", "a", tmp_path)
    Claim("models.example:9000", "b", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_folder_for_it_is_this_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_folder() == tmp_path / "shoal"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = runtime_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="is not this user's own folder"):
        runtime_folder()


def test_names_tell_revisions_apart_and_name_folders() -> None:
    name = "n" * 254
    revision = Revision(
        id=f"{name}@3-0123456789ab", model=name, version=3, uri="/m", format="onnx",
        artifact_digest="", files_bytes=1)
    given = server_name(revision)
    assert len(os.fsencode(given)) < 255
    assert given.endswith("__3-0123456789ab")
    assert is_ours(given)
    assert not is_ours("resnet__v2")
