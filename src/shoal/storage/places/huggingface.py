"""Reads models of the Hugging Face Hub: `hf://owner/model[:revision][/path]`.

Follows the Hub's public HTTP API (https://huggingface.co/docs/hub/api): a revision is resolved to
its commit, the files of which are listed with their sizes and digests, and read from `resolve/`,
which sends on to where large files lie. Of a folder, what belongs to no model is left out
(`left_out`). A few requests, so the package `huggingface_hub`, with a cache of its own, is not
needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

import msgspec

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
    ShoalError,
)
from shoal.storage.archives import SUFFIXES
from shoal.storage.files import MAX_FILES
from shoal.storage.names import in_words, why_not_confined
from shoal.storage.places.credentials import Access
from shoal.storage.places.huggingface_files import left_out
from shoal.storage.places.place import RemoteFile, Snapshot
from shoal.storage.places.reach import Reach, trust_of
from shoal.storage.places.web_client import Document, Patience, Request, WebClient

_ENDPOINT: Final = "https://huggingface.co"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY: Final = re.compile(rf"({_NAME})/({_NAME})(?:[:@]([^/:@?#]+))?(?:/([^?#]*))?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NEXT: Final = re.compile(r'<([^>]*)>\s*;\s*rel="next"')
_OTHER_KINDS: Final = ("datasets", "spaces", "models", "buckets", "kernels")


class _Model(msgspec.Struct):
    sha: str


class _Large(msgspec.Struct):
    oid: str
    size: int


class _Entry(msgspec.Struct):
    """A line of a listing. oid: of git, which knows large files (`lfs`) only as pointers."""

    type: str
    path: str
    oid: str = ""
    size: int = 0
    lfs: _Large | None = None


@dataclass(frozen=True, slots=True)
class _Where:
    """A parsed URI. path: of a file or folder in the model's repository; empty: all of it."""

    uri: str
    repository: str
    revision: str
    path: str

    def at(self, commit: str) -> str:
        inside = f"/{self.path}" if self.path else ""
        return f"hf://{self.repository}:{commit}{inside}"


class HuggingFace:
    """See `Files`. access: of the type `hf`; None: the token and the endpoint that Hugging Face's
    own tools would use (`HF_TOKEN`, `hf auth login`, `HF_ENDPOINT`).

    A token goes to the endpoint alone, never to where that sends us on to.
    """

    ranges = True
    nested = True

    def __init__(self, access: Access | None = None, patience: Patience | None = None,
                 environment: Mapping[str, str] = os.environ, reach: Reach | None = None) -> None:
        self._access = access
        self._environment = environment
        self._web = WebClient(patience, trust_of(access, reach or Reach()))

    def look(self, uri: str) -> Snapshot:
        where = _parse(uri)
        commit = self._commit(where)
        lone = self._entry(where, commit) if where.path else None
        if lone is None or lone.type != "file":
            return Snapshot(where.at(commit), self._below(where, commit), version=commit)
        file = _remote_file(lone, "", archive=lone.path.lower().endswith(SUFFIXES))
        return Snapshot(where.at(commit), (file,), version=commit)

    def read(self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
             ) -> Iterator[bytes]:
        where = _parse(snapshot.uri)
        path = "/".join(part for part in (where.path, file.name) if part)
        url = f"{self._endpoint}/{where.repository}/resolve/{where.revision}/{quote(path)}"
        return self._web.pieces(
            Request(snapshot.named(file), url, self._headers()), start, end,
            refused=lambda answer: self._refused(where, answer))

    def _commit(self, where: _Where) -> str:
        if _COMMIT.fullmatch(where.revision):
            return where.revision
        revision = quote(where.revision, safe="")
        url = f"{self._endpoint}/api/models/{where.repository}/revision/{revision}?expand[]=sha"
        commit = self._ask(where, Request(where.uri, url, self._headers())).json(_Model).sha
        if not _COMMIT.fullmatch(commit):
            raise PlaceUnavailable(
                f"{where.uri}: {self._host} names no commit for the revision {where.revision!r}")
        return commit

    def _entry(self, where: _Where, commit: str) -> _Entry:
        """The file or folder at the URI's path."""
        url = f"{self._endpoint}/api/models/{where.repository}/paths-info/{commit}"
        answer = self._ask(where, Request(
            where.uri, url, self._headers(), "POST", {"paths": where.path, "expand": "false"}))
        for entry in answer.json(list[_Entry]):
            if entry.path == where.path:
                return entry
        raise ArtifactMissing(
            f"{where.uri}: the model {where.repository!r} has no {where.path!r} at the revision "
            f"{where.revision!r}; correct the path")

    def _below(self, where: _Where, commit: str) -> tuple[RemoteFile, ...]:
        above = f"{where.path}/" if where.path else ""
        entries = {}
        for entry in self._listed(where, commit):
            name = entry.path.removeprefix(above)
            if entry.type != "file" or not entry.path.startswith(above):
                continue
            if reason := why_not_confined(name):
                raise InvalidArtifact(f"{where.uri}: {in_words(entry.path)} {reason}; rename it")
            entries[name] = entry
        superfluous = left_out(entries)
        names = sorted(name for name in entries if name not in superfluous)
        if not names:
            raise ArtifactMissing(
                f"{where.uri} holds no files that a model could consist of; put the model there")
        return tuple(_remote_file(entries[name], name) for name in names)

    def _listed(self, where: _Where, commit: str) -> Iterator[_Entry]:
        folder = f"/{quote(where.path, safe='')}" if where.path else ""
        url = (f"{self._endpoint}/api/models/{where.repository}/tree/{commit}{folder}"
               "?recursive=true&expand=false")
        count = 0
        while True:
            page = self._ask(where, Request(where.uri, url, self._headers()))
            entries = page.json(list[_Entry])
            yield from entries
            count += len(entries)
            if count > MAX_FILES:
                raise InvalidSpecification(
                    f"{where.uri} holds more than {MAX_FILES:,} files; point to the artifact alone")
            following = _NEXT.search(page.headers.get("link", ""))
            if following is None or not entries:
                return
            url = urljoin(url, following.group(1))
            if urlsplit(url)[:2] != urlsplit(self._endpoint)[:2]:
                raise PlaceUnavailable(
                    f"{where.uri}: {self._host} has the rest of the list at another host, which "
                    "is not asked")

    def _ask(self, where: _Where, request: Request) -> Document:
        answer = self._web.ask(request)
        if answer.status != 200:
            raise self._refused(where, answer)
        return answer

    def _refused(self, where: _Where, answer: Document) -> ShoalError:
        """The Hub tells by `X-Error-Code` why. Who has no token is told 401 for a model that does
        not exist, too."""
        code = answer.headers.get("x-error-code", "")
        page = f"{self._endpoint}/{where.repository}"
        if code == "RevisionNotFound":
            return ArtifactMissing(
                f"{where.uri}: the model {where.repository!r} has no revision {where.revision!r}; "
                "give a branch, a tag or a commit of it")
        if code == "EntryNotFound":
            return ArtifactMissing(f"{where.uri}: {self._host} has no such file; correct the path")
        if code == "GatedRepo":
            return PlaceDenied(
                f"{where.uri} is gated: {self._host} gives it only to accounts that were granted "
                f"access; ask for it at {page}, and give the token of that account: "
                f"{self._how()}")
        if answer.status == 401 and not self._headers():
            return PlaceDenied(
                f"{where.uri} does not exist, or is private or gated, and no token was given; "
                f"correct the name, or give a token: {self._how()}")
        if answer.status in (401, 403):
            return PlaceDenied(
                f"{where.uri}: {self._host} does not give it to the owner of the token "
                f"({answer.status}); look at {page} whether it exists and may be read, and give "
                f"another token: {self._how()}")
        if answer.status == 404:
            return ArtifactMissing(
                f"{where.uri}: {self._host} has no model {where.repository!r}, or it is private; "
                f"correct the name, or give a token: {self._how()}")
        return PlaceUnavailable(
            f"{where.uri}: {self._host} answers with status {answer.status}, which no model server "
            "of the Hub does; is the endpoint right?")

    @property
    def _endpoint(self) -> str:
        named = self._access.get("endpoint_url") if self._access is not None else ""
        return (named or self._environment.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")

    @property
    def _host(self) -> str:
        return urlsplit(self._endpoint).netloc.rpartition("@")[2]

    def _headers(self) -> dict[str, str]:
        """Read anew each time, since somebody may log in meanwhile."""
        access = self._access
        token = _ambient_token(self._environment) if access is None else access.get("token")
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _how(self) -> str:
        if self._access is not None:
            return f"correct the credentials {self._access.name!r}"
        return "set HF_TOKEN where Shoal runs, or name credentials of the type 'hf'"


def check_hub_uri(uri: str) -> None:
    """Raise InvalidSpecification for what names no model."""
    _parse(uri)


def _parse(uri: str) -> _Where:
    match = _REPOSITORY.fullmatch(uri.partition("://")[2].rstrip("/"))
    if match is None or match.group(1) in _OTHER_KINDS:
        kind = " of a model, not of a data set or a space" if match is not None else ""
        raise InvalidSpecification(
            f"uri {uri!r} is no address{kind}; write hf://OWNER/MODEL, "
            "hf://OWNER/MODEL:REVISION or hf://OWNER/MODEL:REVISION/PATH (a '/' in a revision is "
            "written %2F)")
    owner, model, revision, path = match.groups()
    if path and (reason := why_not_confined(path)):
        raise InvalidSpecification(f"uri {uri!r}: its path {reason}; correct it")
    return _Where(uri, f"{owner}/{model}", unquote(revision or "main"), path or "")


def _remote_file(entry: _Entry, name: str, *, archive: bool = False) -> RemoteFile:
    if entry.lfs is None:
        return RemoteFile(name, entry.size, tag=entry.oid, archive=archive)
    sha256 = entry.lfs.oid if _SHA256.fullmatch(entry.lfs.oid) else None
    return RemoteFile(name, entry.lfs.size, tag=entry.lfs.oid, sha256=sha256, archive=archive)


def _ambient_token(environment: Mapping[str, str]) -> str:
    """Where https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    says that it is."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := environment.get(name, "").strip():
            return token
    for path in _token_files(environment):
        try:
            return path.expanduser().read_text().strip()
        except (OSError, ValueError, RuntimeError):  # RuntimeError: no home is known
            continue
    return ""


def _token_files(environment: Mapping[str, str]) -> Iterable[Path]:
    if named := environment.get("HF_TOKEN_PATH"):
        return [Path(named)]
    if home := environment.get("HF_HOME"):
        return [Path(home, "token")]
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return [Path(cache, "huggingface", "token")]
