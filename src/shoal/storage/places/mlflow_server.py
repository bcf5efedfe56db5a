"""Asks an MLflow tracking server, as whom credentials say, and gives the artifacts that it keeps.

Follows MLflow's REST API (https://mlflow.org/docs/latest/api_reference/rest-api.html) and that of
its artifact server, in which nothing tells what a file holds. The package mlflow is not needed.
Knows no models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
    ShoalError,
)
from shoal.storage.files import MAX_FILES
from shoal.storage.names import in_words, why_not_confined
from shoal.storage.places.credentials import Access
from shoal.storage.places.fields import fields_of
from shoal.storage.places.place import RemoteFile, Snapshot
from shoal.storage.places.reach import Reach, trust_of
from shoal.storage.places.web_client import Document, Patience, Request, WebClient, basic
from shoal.storage.uri import split_scheme

_T = TypeVar("_T")

_ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
_ENVIRONMENT: Final = "the environment"


class _Entry(msgspec.Struct):
    """path: the name alone."""

    path: str
    is_dir: bool = False
    file_size: int | str | None = None


class _Listing(msgspec.Struct):
    files: list[_Entry] = []


class _Failure(msgspec.Struct):
    error_code: str
    message: str = ""


class TrackingServer:
    """access: of the type `mlflow`; None: what MLflow's own tools would use
    (`MLFLOW_TRACKING_URI`, …). Raises InvalidSpecification where that names no server."""

    def __init__(self, access: Access | None, reach: Reach, patience: Patience | None = None,
                 environment: Mapping[str, str] = os.environ) -> None:
        if access is None:
            access = Access(_ENVIRONMENT, "mlflow", fields_of("mlflow", environment, _ENVIRONMENT))
        self._access = access
        self._web = WebClient(patience, trust_of(access, reach))
        self.url = access.get("tracking_uri").rstrip("/")
        parts = urlsplit(self.url)
        self.host = parts.netloc.rpartition("@")[2]
        if parts.scheme not in ("http", "https") or not self.host:
            raise InvalidSpecification(self._no_server(parts.scheme))

    def ask(self, about: str, what: str, kind: type[_T], **query: str) -> _T:
        """what: the end of the path. Raises ArtifactMissing for what the server does not have, and
        as `places` do."""
        return self._ask(about, f"{self.url}/api/2.0/mlflow/{what}?{urlencode(query)}", kind)

    def _ask(self, about: str, url: str, kind: type[_T]) -> _T:
        answer = self._web.ask(Request(about, url, self._headers()))
        if answer.status != 200:
            raise self._refused(answer)
        return answer.json(kind)

    # --- the artifacts that it keeps ------------------------------------------------------------

    def entries(self, about: str, path: str) -> list[_Entry]:
        """What lies in the folder `path` of the server; nothing where there is no such folder."""
        url = f"{self.url}{_ARTIFACTS}?{urlencode({'path': path})}"
        return self._ask(about, url, _Listing).files

    def pieces(self, about: str, path: str, start: int, end: int | None) -> Iterator[bytes]:
        url = f"{self.url}{_ARTIFACTS}/{quote(path)}"
        return self._web.pieces(Request(about, url, self._headers()), start, end, self._refused)

    # --- who asks, and what is wrong ------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        access = self._access
        if access.get("username"):
            return {"Authorization": basic(access.get("username"), access.get("password"))}
        token = access.get("token")
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _refused(self, answer: Document) -> ShoalError:
        about, status = answer.about, answer.status
        try:
            failure = msgspec.json.decode(answer.body, type=_Failure)
        except (msgspec.DecodeError, UnicodeDecodeError):
            failure = _Failure("")
        if status in (401, 403):
            tried = "does not let it be read with" if self._headers() else "wants to know who asks;"
            return PlaceDenied(
                f"{about}: the MLflow server {self.host} {tried} {self._whose()} ({status}); "
                f"{self._how()}")
        said = " ".join(failure.message.split())[:200].rstrip(".")
        if failure.error_code == "RESOURCE_DOES_NOT_EXIST" or (
                status == 400 and said.endswith("not found")):  # so it says of aliases
            return ArtifactMissing(
                f"{about}: the MLflow server {self.host} says: {said}; register it there, or "
                "correct the URI")
        if failure.error_code and status < 500:
            return InvalidSpecification(
                f"{about}: the MLflow server {self.host} says: {said}; correct the URI")
        return PlaceUnavailable(
            f"{about}: {self.host} answers with status {status}, which no MLflow server does; is "
            "the tracking URI right?")

    def _no_server(self, scheme: str) -> str:
        named = self._access.name != _ENVIRONMENT
        where = f"credentials {self._access.name!r}: tracking_uri" if named else (
            "MLFLOW_TRACKING_URI, where Shoal runs,")
        if not self.url:
            return (f"{where} says no MLflow server, which models:/ needs; set it, or name "
                    "credentials of the type 'mlflow' with a tracking_uri")
        return (f"{where} names no server over HTTP, but {scheme or 'a path'}; start one (mlflow "
                "server), and give its address")

    def _whose(self) -> str:
        if self._access.name != _ENVIRONMENT:
            return f"the credentials {self._access.name!r}"
        return "those of the environment" if self._headers() else "there are no credentials for it"

    def _how(self) -> str:
        if self._access.name != _ENVIRONMENT:
            return "correct them (username and password, or token)"
        return ("set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, where Shoal runs, or name credentials of the type 'mlflow'")


class ServedArtifacts:
    """See `Files`: `mlflow-artifacts:/PATH` of one server. Files have no tags. ranges: none, since
    a server before an object store brings the whole file for each."""

    ranges = False
    nested = False

    def __init__(self, server: TrackingServer) -> None:
        self._server = server

    def look(self, uri: str) -> Snapshot:
        path = self._path(uri)
        files = tuple(self._below(uri, path, ""))
        if not files:
            above, _, name = path.rpartition("/")
            lone = [each for each in self._server.entries(uri, above)
                    if each.path == name and not each.is_dir]
            files = tuple(RemoteFile("", _size(each)) for each in lone)
        if not files:
            raise ArtifactMissing(
                f"{uri}: the MLflow server {self._server.host} keeps no artifact there; was it "
                "deleted?")
        return Snapshot(uri, tuple(sorted(files, key=lambda file: file.name)))

    def read(self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
             ) -> Iterator[bytes]:
        path = "/".join(part for part in (self._path(snapshot.uri), file.name) if part)
        return self._server.pieces(snapshot.named(file), path, start, end)

    def _below(self, uri: str, path: str, inside: str) -> Iterator[RemoteFile]:
        folders, count = [inside], 0
        while folders:
            folder = folders.pop()
            for entry in self._server.entries(uri, "/".join(filter(None, (path, folder)))):
                name = "/".join(filter(None, (folder, entry.path)))
                if reason := why_not_confined(name):
                    raise InvalidArtifact(f"{uri}: {in_words(name)} {reason}; rename it")
                if entry.is_dir:
                    folders.append(name)
                else:
                    yield RemoteFile(name, _size(entry))
                count += 1
                if count > MAX_FILES:
                    raise InvalidSpecification(
                        f"{uri} holds more than {MAX_FILES:,} files; point to the artifact alone")

    def _path(self, uri: str) -> str:
        _, rest = split_scheme(uri)
        if not uri.partition(":")[2].startswith("//"):
            return rest.strip("/")
        host, _, path = rest.partition("/")
        if host and host.lower() != self._server.host.lower():
            raise InvalidSpecification(
                f"{uri} lies at another server than {self._server.host}; name credentials of the "
                "type 'mlflow' with that tracking_uri")
        return path.strip("/")


def _size(entry: _Entry) -> int | None:
    return None if entry.file_size is None else int(entry.file_size)
