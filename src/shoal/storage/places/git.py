"""Reads models from git repositories: `git+https://host/owner/repository.git[@reference]`.

Runs the program `git`: it fetches one commit without its history. Neither hooks, filters,
submodules nor anybody's configuration take part, and no credential is an argument that other users
of the machine could read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
    ShoalError,
)
from shoal.storage.files import MAX_FILES
from shoal.storage.names import in_words
from shoal.storage.places.credentials import Access
from shoal.storage.places.git_program import Git, GitFailed
from shoal.storage.places.place import Snapshot
from shoal.storage.places.reach import Reach, trust_of
from shoal.storage.places.web_client import is_local

MAX_BYTES: Final = 256 * 1024**3
"""Of one commit, packed and unpacked."""

_HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT: Final = re.compile(r"[0-9a-f]{7,39}")
_LINE: Final = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\t(\S+)")
_LARGE: Final = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_BYTES: Final = 1024
_LARGE_FILTER: Final = (  # without which git-lfs takes itself for not installed
    "-c", "filter.lfs.clean=git-lfs clean -- %f", "-c", "filter.lfs.smudge=git-lfs smudge -- %f",
    "-c", "filter.lfs.required=true")

_NOT_KEPT: Final = "object does not exist"
_DENIED: Final = ("could not read username", "authentication failed", "error: 403", "error: 401",
                  "could not read password")
_NOT_TRUSTED: Final = ("certificate verification failed", "certificate problem")
_MISSING: Final = ("not found", "does not appear to be a git repository", "error: 404")
_NO_SUCH_COMMIT: Final = ("not our ref", "unadvertised object", "couldn't find remote ref",
                          "reference is not a tree")


@dataclass(frozen=True, slots=True)
class _Where:
    """A parsed URI. url: what git is given. reference: empty: the default branch."""

    uri: str
    url: str
    host: str
    reference: str

    def at(self, commit: str) -> str:
        return f"git+{self.url}@{commit}"


class GitRepository:
    """See `Whole`. access: of the type `git`; None: what `~/.netrc` says."""

    def __init__(self, access: Access | None = None, max_bytes: int = MAX_BYTES,
                 environment: Mapping[str, str] = os.environ, reach: Reach | None = None) -> None:
        self._access = access
        self._authorities = trust_of(access, reach or Reach()).authorities
        self._max_bytes = max_bytes
        self._environment = environment

    def look(self, uri: str) -> Snapshot:
        where = _parse(uri)
        commit = where.reference
        if not _COMMIT.fullmatch(commit):
            commit = self._commit(where)
        return Snapshot(where.at(commit), (), version=commit)

    def fetch(self, snapshot: Snapshot, into: Path, go_on: Callable[[], None]) -> None:
        where = _parse(snapshot.uri)
        folder = into.with_name(f"{into.name}.git")
        shutil.rmtree(folder, ignore_errors=True)
        git = self._git(where, go_on, folder, into)
        try:
            self._bring(git, where, folder)
            self._check_size(git, where)
            self._run(git, where, "checkout", "--quiet", "--force", "--detach", where.reference)
            _settle(where, into, go_on)
            large = _pointers(into, go_on)
            if large:
                self._bring_large(git, where, large, folder)
                self._check_large(where, _pointers(into, go_on))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _bring(self, git: Git, where: _Where, folder: Path) -> None:
        kind = "sha256" if len(where.reference) == 64 else "sha1"
        self._run(git, where, "init", "--quiet", "--template=", f"--object-format={kind}")
        self._run(git, where, "fetch", "--quiet", "--depth=1", "--no-tags",
                  "--no-recurse-submodules", "--", where.url, where.reference,
                  watched=folder, max_bytes=self._max_bytes)

    def _check_size(self, git: Git, where: _Where) -> None:
        listed = self._run(git, where, "ls-tree", "-r", "-l", "-z", "--full-tree", where.reference)
        entries = [entry.split(b"\t", 1)[0].split() for entry in listed.split(b"\0") if entry]
        sizes = [int(entry[3]) for entry in entries if entry[1] == b"blob"]
        if len(sizes) > MAX_FILES or sum(sizes) > self._max_bytes:
            raise InvalidArtifact(
                f"{where.at(where.reference)} has {len(sizes):,} files of {sum(sizes):,} bytes, "
                f"more than {MAX_FILES:,} or {self._max_bytes:,}; put the model into a repository "
                "of its own")

    def _bring_large(self, git: Git, where: _Where, large: list[str], folder: Path) -> None:
        """What is kept in Git LFS, where the program for that is installed."""
        named = f"{in_words(large[0])} and {len(large) - 1} other files" if len(large) > 1 else \
            in_words(large[0])
        uri = where.at(where.reference)
        if not git.has("git-lfs"):
            raise InvalidArtifact(
                f"{uri}: {named} are kept in Git LFS, and the program git-lfs is not installed "
                "where Shoal runs; install it")
        self._run(git, where, "config", "remote.origin.url", where.url)
        self._run(git, where, "config", "lfs.url", f"{where.url.rstrip('/')}/info/lfs")
        self._run(git, where, *_LARGE_FILTER, "lfs", "pull", watched=folder,
                  max_bytes=self._max_bytes)

    def _check_large(self, where: _Where, missing: list[str]) -> None:
        if missing:
            raise ArtifactMissing(
                f"{where.at(where.reference)}: {in_words(missing[0])} is kept in Git LFS, and did "
                "not come from there; push it with `git lfs push --all`")

    def _commit(self, where: _Where) -> str:
        wanted = where.reference
        names = ["HEAD"] if not wanted else [wanted] if wanted.startswith("refs/") else [
            f"refs/heads/{wanted}", f"refs/tags/{wanted}"]
        asked = [*names, *(f"{name}^{{}}" for name in names)]
        git = self._git(where, lambda: None)
        listed = self._run(git, where, "ls-remote", "--quiet", "--", where.url, *asked)
        found = {name: commit for commit, name in _LINE.findall(listed.decode(errors="replace"))}
        # An annotated tag is an object of its own; `^{}` is the commit it stands for.
        commits = {name: found.get(f"{name}^{{}}", found[name]) for name in names if name in found}
        if len(set(commits.values())) > 1:
            raise InvalidSpecification(
                f"{where.uri}: {wanted!r} is both a branch and a tag; write @refs/heads/{wanted} "
                f"or @refs/tags/{wanted}")
        if not commits:
            short = "; a commit is written with all its digits" if _SHORT.fullmatch(wanted) else ""
            raise ArtifactMissing(
                f"{where.uri}: the repository has no branch and no tag {wanted!r}{short}; correct "
                "what follows '@'" if wanted else f"{where.uri}: the repository has no default "
                "branch; push to it, or name a branch with '@'")
        commit: str = next(iter(commits.values()))
        return commit

    def _git(self, where: _Where, go_on: Callable[[], None], folder: Path | None = None,
             into: Path | None = None) -> Git:
        scheme = urlsplit(where.url).scheme
        git = Git(self._environment, go_on, scheme, self._authorization(where), folder, into)
        git.authorities = self._authorities
        return git

    def _authorization(self, where: _Where) -> tuple[str, str, str] | None:
        """The address that a user and password are for. Raises InvalidSpecification."""
        access = self._access
        if access is None:
            return None
        host = access.get("host").partition("://")[2] or access.get("host")
        host = host.strip("/").lower()
        if not host:
            raise InvalidSpecification(
                f"credentials {access.name!r} do not say which host they are for; add the field "
                "'host' to them")
        if host != where.host:
            if access.is_default:
                return None
            raise InvalidSpecification(
                f"credentials {access.name!r} are for {host}, and not for {where.host}; name "
                "others")
        secret = access.get("token") or access.get("password")
        user = access.get("username") or "x-access-token"
        return f"{urlsplit(where.url).scheme}://{where.host}/", user, secret

    def _run(self, git: Git, where: _Where, *arguments: str, watched: Path | None = None,
             max_bytes: int = 0) -> bytes:
        try:
            return git.run(*arguments, watched=watched, max_bytes=max_bytes)
        except GitFailed as failure:
            raise self._in_words(where, failure) from failure

    def _in_words(self, where: _Where, failure: GitFailed) -> ShoalError:
        story = failure.story.lower()
        if failure.grew:
            return InvalidArtifact(
                f"{where.uri} has more than {self._max_bytes:,} bytes; put the model into a "
                "repository of its own")
        if any(sign in story for sign in _DENIED):
            tried = f"does not accept the credentials {self._access.name!r}" \
                if self._access is not None else "has no such repository, or it is private"
            return PlaceDenied(
                f"{where.uri}: {where.host} {tried}; correct the address, or name credentials of "
                "the type 'git' with the host, a user and a token")
        if any(sign in story for sign in _NOT_TRUSTED):
            return PlaceUnavailable(
                f"{where.uri}: {where.host} has a certificate that is not trusted; give its "
                "authority's as 'certificate' in the credentials, or in storage.ca_file")
        if any(sign in story for sign in _NO_SUCH_COMMIT):
            return ArtifactMissing(
                f"{where.uri}: {where.host} does not have, or does not give, "
                f"{where.reference!r}; name a branch or tag that has it")
        if _NOT_KEPT in story:
            return ArtifactMissing(
                f"{where.uri}: a file of it is kept in Git LFS, but {where.host} does not have it "
                "there; push it with `git lfs push --all`")
        if any(sign in story for sign in _MISSING):
            return ArtifactMissing(
                f"{where.uri}: {where.host} has no such repository; correct the address")
        return PlaceUnavailable(
            f"{where.uri} cannot be fetched: git says {failure.story!r}; it is tried again later")


def check_git_uri(uri: str) -> None:
    """Raise InvalidSpecification for what names no repository."""
    _parse(uri)


def _parse(uri: str) -> _Where:
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    scheme = scheme.lower().removeprefix("git+")
    if "@" in host:
        raise InvalidSpecification(
            f"the uri of a repository at {host.rpartition('@')[2]} has a user or a password in it, "
            "and whoever sees the model would see them; name credentials of the type 'git' instead")
    allowed = scheme == "https" or (scheme == "http" and is_local(host))
    repository, at, reference = path.partition("@")
    if (not allowed or not _HOST.fullmatch(host) or not repository.strip("/") or "?" in path
            or (at and not reference) or not path.isprintable() or " " in path):
        raise InvalidSpecification(
            f"uri {uri!r} is no address of a git repository; write git+https://HOST/PATH.git, and "
            "behind that @BRANCH, @TAG or @COMMIT")
    reference = unquote(reference)
    if reference.startswith("-") or not reference.isprintable() or reference.endswith("/"):
        raise InvalidSpecification(f"uri {uri!r}: {reference!r} is no name of a branch or tag")
    host = host.lower()
    return _Where(uri, f"{scheme}://{host}{slash}{repository.rstrip('/')}", host, reference)


def _settle(where: _Where, into: Path, go_on: Callable[[], None]) -> None:
    """Links become what they lead to, which must be a file of the commit."""
    root = into.resolve()
    links = [path for top, folders, files in os.walk(into) for name in (*folders, *files)
             if (path := Path(top, name)).is_symlink()]
    for link in links:
        go_on()
        try:
            real = link.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links in a circle
            real = None
        if real is None or not real.is_relative_to(root) or not real.is_file():
            raise InvalidArtifact(
                f"{where.at(where.reference)}: {in_words(link.relative_to(into).as_posix())} is a "
                "symbolic link, and not to a file of the same commit; replace it by what it leads "
                "to")
        copy = link.with_name(f"{link.name}.link")
        os.link(real, copy)
        copy.replace(link)


def _pointers(into: Path, go_on: Callable[[], None]) -> list[str]:
    """The files that say where their content is instead of having it."""
    found = []
    for top, _, files in os.walk(into):
        go_on()
        for name in files:
            path = Path(top, name)
            if path.lstat().st_size <= _MAX_POINTER_BYTES:
                with open(path, "rb") as source:
                    if source.read(len(_LARGE)) == _LARGE:
                        found.append(path.relative_to(into).as_posix())
    return sorted(found)
