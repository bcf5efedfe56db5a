"""Models in git repositories, served by git itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.git_server import GitServer, git_server

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
    RuntimeMissing,
    ShuttingDown,
)
from shoal.storage.places.credentials import Access
from shoal.storage.places.git import GitRepository
from shoal.storage.places.place import Files, Whole

FILES = {"model.onnx": b"weights", "1/labels.txt": b"a\nb", ".gitignore": b"*.tmp"}

needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="needs git-lfs")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "server") as server:
        yield server


def fetched(server: GitServer, into: Path, behind: str = "", place: GitRepository | None = None
            ) -> dict[str, bytes]:
    into.mkdir()
    at = place or GitRepository()
    at.fetch(at.look(server.uri(behind)), into, lambda: None)
    assert not (into.parent / f"{into.name}.git").exists()
    assert not any(path.is_symlink() for path in into.rglob("*"))
    return {path.relative_to(into).as_posix(): path.read_bytes()
            for path in into.rglob("*") if path.is_file()}


def test_it_gives_all_at_once() -> None:
    assert isinstance(GitRepository(), Whole)
    assert not isinstance(GitRepository(), Files)


def test_the_default_branch_is_fetched_without_history(server: GitServer, tmp_path: Path) -> None:
    server.commit({"old": b"x"})
    (server.folder / "iris.git" / "old").unlink()
    commit = server.commit(FILES)
    snapshot = GitRepository().look(server.uri())
    assert (snapshot.uri, snapshot.version) == (server.uri(f"@{commit}"), commit)
    assert fetched(server, tmp_path / "out") == FILES


def test_branches_tags_and_commits_are_named(server: GitServer, tmp_path: Path) -> None:
    first = server.commit({"a": b"1"})
    server.git("tag", "--annotate", "v1.0", "--message", "x")
    server.git("checkout", "--quiet", "-b", "release/2")
    second = server.commit({"a": b"2"})
    look = GitRepository().look
    assert look(server.uri("@v1.0")).version == first
    assert look(server.uri("@refs/tags/v1.0")).version == first
    assert look(server.uri("@release/2")).version == second
    assert look(server.uri(f"@{first}")).version == first
    assert fetched(server, tmp_path / "first", f"@{first}") == {"a": b"1"}
    assert fetched(server, tmp_path / "second", "@release/2") == {"a": b"2"}


def test_what_is_pinned_stays_though_the_branch_moves_on(server: GitServer, tmp_path: Path) -> None:
    server.commit({"a": b"1"})
    at = GitRepository()
    before = at.look(server.uri("@main"))
    server.commit({"a": b"2"})
    (tmp_path / "out").mkdir()
    at.fetch(before, tmp_path / "out", lambda: None)
    assert (tmp_path / "out" / "a").read_bytes() == b"1"
    assert at.look(server.uri("@main")).tag != before.tag == at.look(before.uri).tag


def test_a_name_of_both_a_branch_and_a_tag_is_refused(server: GitServer) -> None:
    server.commit({"a": b"1"})
    server.git("tag", "both")
    server.commit({"a": b"2"})
    server.git("branch", "both")
    with pytest.raises(InvalidSpecification, match="write @refs/heads/both or @refs/tags/both"):
        GitRepository().look(server.uri("@both"))


@pytest.mark.parametrize(("behind", "story"), [
    ("@nothing", "no branch and no tag 'nothing'"),
    ("@*", "no branch and no tag"),
    ("@abcdef1", "a commit is written with all its digits"),
])
def test_a_reference_that_is_missing_is_named(server: GitServer, behind: str, story: str) -> None:
    server.commit(FILES)
    with pytest.raises(ArtifactMissing, match=story):
        GitRepository().look(server.uri(behind))


def test_a_commit_that_is_missing_is_named(server: GitServer, tmp_path: Path) -> None:
    server.commit(FILES)
    with pytest.raises(ArtifactMissing, match=f"does not give, '{'0' * 40}'"):
        fetched(server, tmp_path / "out", f"@{'0' * 40}")


def test_an_empty_repository_and_a_missing_one_are_told_apart(server: GitServer) -> None:
    with pytest.raises(ArtifactMissing, match="no default branch"):
        GitRepository().look(server.uri())
    with pytest.raises(ArtifactMissing, match="no such repository"):
        GitRepository().look(f"git+http://{server.host}/roses.git")


def test_a_server_that_fails_or_is_not_there_may_be_asked_later(server: GitServer) -> None:
    server.refuse = 503
    with pytest.raises(PlaceUnavailable, match=r"git says .*503"):
        GitRepository().look(server.uri())
    with pytest.raises(PlaceUnavailable, match="cannot be fetched"):
        GitRepository().look("git+http://127.0.0.1:1/iris.git")


# --- who asks -----------------------------------------------------------------------------------


def test_a_private_repository_needs_credentials_and_nobody_is_asked_for_them(
        server: GitServer) -> None:
    server.password = "secret"
    with pytest.raises(PlaceDenied, match="no such repository, or it is private"):
        GitRepository().look(server.uri())


def test_named_credentials_open_it(server: GitServer, tmp_path: Path) -> None:
    server.commit(FILES)
    server.password = "secret"
    access = Access("team", "git", {
        "host": server.host, "username": "reader", "token": server.password})
    assert fetched(server, tmp_path / "out", place=GitRepository(access)) == FILES


def test_wrong_credentials_are_not_shown(server: GitServer) -> None:
    server.password = "secret"
    access = Access("team", "git", {"host": server.host, "token": "wr0ng"})
    with pytest.raises(PlaceDenied, match="does not accept the credentials 'team'") as refused:
        GitRepository(access).look(server.uri())
    assert "wr0ng" not in refused.value.message


def test_a_netrc_of_the_user_that_runs_it_opens_it(server: GitServer, tmp_path: Path) -> None:
    server.commit(FILES)
    server.password = "secret"
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login reader password secret\n")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    assert GitRepository(None, environment=environment).look(server.uri()).version


def test_credentials_go_to_no_other_host_than_theirs(server: GitServer) -> None:
    server.commit(FILES)
    with pytest.raises(InvalidSpecification, match=r"are for github\.com, and not for"):
        GitRepository(Access("team", "git", {"host": "github.com"})).look(server.uri())
    with pytest.raises(InvalidSpecification, match="do not say which host"):
        GitRepository(Access("team", "git", {"token": "x"})).look(server.uri())
    other = Access("default", "git", {"host": "github.com"})
    assert GitRepository(other).look(server.uri()).version


# --- what is not taken --------------------------------------------------------------------------


def test_links_to_files_of_the_commit_become_files(server: GitServer, tmp_path: Path) -> None:
    (server.folder / "iris.git" / "latest").symlink_to("models/model.onnx")
    server.commit({"models/model.onnx": b"weights"})
    assert fetched(server, tmp_path / "out") == {
        "latest": b"weights", "models/model.onnx": b"weights"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "nothing", "models", "link"])
def test_other_links_are_refused(server: GitServer, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("x")
    (server.folder / "iris.git" / "link").symlink_to(target)
    server.commit({"models/a": b"1"})
    with pytest.raises(InvalidArtifact, match="'link' is a symbolic link"):
        fetched(server, tmp_path / "out")


def test_a_repository_that_is_too_large_is_refused(server: GitServer, tmp_path: Path) -> None:
    server.commit({"zeros": bytes(100_000)})
    with pytest.raises(InvalidArtifact, match="1 files of 100,000 bytes"):
        fetched(server, tmp_path / "out", place=GitRepository(max_bytes=90_000))
    shutil.rmtree(tmp_path / "out")
    server.stop_at = "git-upload-pack"  # what git makes before it fetches is over this limit
    with pytest.raises(InvalidArtifact, match="more than 10 bytes"):
        fetched(server, tmp_path / "out", f"@{'1' * 40}", GitRepository(max_bytes=10))


def test_a_repository_runs_nothing(server: GitServer, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / ".gitconfig").write_text(
        f"[core]\n hooksPath = {tmp_path}/hooks\n[filter \"x\"]\n smudge = touch {ran}\n")
    (tmp_path / "hooks").mkdir()
    hook = tmp_path / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    server.commit({".gitattributes": b"* filter=x", "a": b"1"})
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_DIR": "/nowhere"}
    fetched(server, tmp_path / "out", place=GitRepository(None, environment=environment))
    assert not ran.exists()


def test_a_fetch_ends_when_it_is_to_end(server: GitServer, tmp_path: Path) -> None:
    commit = server.commit(FILES)
    server.stop_at = "git-upload-pack"
    into = tmp_path / "out"
    into.mkdir()

    def go_on() -> None:
        if server.stopped.is_set():
            raise ShuttingDown("this instance is shutting down")

    at = GitRepository()
    with pytest.raises(ShuttingDown):
        at.fetch(at.look(server.uri(f"@{commit}")), into, go_on)
    assert [path.name for path in tmp_path.iterdir()] == ["server", "out"]


def test_without_git_its_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissing, match="install the package git"):
        GitRepository(environment={"PATH": str(tmp_path)}).look("git+https://example.org/a.git")


@pytest.mark.parametrize("uri", [
    "git+https://github.com", "git+http://github.com/a/b.git", "git+https://h/a.git@",
    "git+https://h/a.git@-x", "git+https://h/a b.git", "git+https://h/a.git?x=1",
    "git+ssh://h/a.git", "git+https://h;x/a.git"])
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(InvalidSpecification):
        GitRepository().look(uri)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidSpecification, match="has a user or a password") as refused:
        GitRepository().look("git+https://me:secret@github.com/a/b.git")
    assert "secret" not in refused.value.message


# --- Git LFS ------------------------------------------------------------------------------------


def with_large(server: GitServer) -> None:
    attributes = b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"
    server.commit({".gitattributes": attributes, "model.onnx": server.pointer(b"large weights"),
                   "labels.txt": b"a"})


@needs_lfs
def test_large_files_come_from_where_they_are_kept(server: GitServer, tmp_path: Path) -> None:
    with_large(server)
    server.password = "secret"
    access = Access("team", "git", {
        "host": server.host, "username": "reader", "password": server.password})
    files = fetched(server, tmp_path / "out", place=GitRepository(access))
    assert (files["model.onnx"], files["labels.txt"]) == (b"large weights", b"a")


@needs_lfs
def test_a_large_file_that_is_not_kept_anywhere_is_named(server: GitServer, tmp_path: Path) -> None:
    with_large(server)
    server.large.clear()
    with pytest.raises(ArtifactMissing, match=r"kept in Git LFS, but .* does not have it"):
        fetched(server, tmp_path / "out")


def test_large_files_without_the_program_for_them_are_named(
        server: GitServer, tmp_path: Path) -> None:
    with_large(server)
    programs = tmp_path / "programs"
    programs.mkdir()
    git = shutil.which("git")
    assert git is not None
    (programs / "git").symlink_to(git)
    at = GitRepository(environment={"PATH": str(programs)})
    with pytest.raises(InvalidArtifact, match=r"'model\.onnx' are kept in Git LFS.*install it"):
        fetched(server, tmp_path / "out", place=at)
