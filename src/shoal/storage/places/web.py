"""Reads one file from a web server, over HTTP or HTTPS.

Its tag is the ETag, else when it was last modified. What the credentials add to requests goes to
their host alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
    ShoalError,
)
from shoal.storage.archives import SUFFIXES
from shoal.storage.names import shown
from shoal.storage.places.credentials import Access
from shoal.storage.places.place import RemoteFile, Snapshot
from shoal.storage.places.reach import Reach, trust_of
from shoal.storage.places.web_client import Document, Patience, Request, WebClient

_PORTS: Final = {"http": 80, "https": 443}
_RANGE: Final = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+)")


class WebFile:
    """One URI. access: of the type `http`. ranges: as the server showed when it was looked at."""

    nested = False

    def __init__(self, access: Access | None = None, patience: Patience | None = None,
                 reach: Reach | None = None) -> None:
        self._access = access
        self._web = WebClient(patience, trust_of(access, reach or Reach()))
        self.ranges = True

    def look(self, uri: str) -> Snapshot:
        """Asks for the first byte: servers with signed URIs refuse HEAD, and whether ranges work
        shows only so."""
        answer = self._web.ask(self._request(uri, {"Range": "bytes=0-0"}), whole=False)
        status, headers = answer.status, answer.headers
        if status not in (200, 206, 416):
            raise self._refused(answer)
        total = _RANGE.fullmatch(headers.get("content-range", ""))
        self.ranges = status == 206 and total is not None
        size: int | None = None
        if status != 200 and total is not None:
            size = int(total[1])
        elif status == 200 and headers.get("content-length", "").isdecimal():
            size = int(headers["content-length"])
        if status == 416 and size != 0:
            raise PlaceUnavailable(f"{shown(uri)} cannot be read now: it answers 416 to a "
                                   "request for its first byte; it is tried again")
        if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            self.ranges, size = False, None
        archive = urlsplit(uri).path.lower().endswith(SUFFIXES)
        return Snapshot(uri, (RemoteFile(
            "", size, _tag(headers), None, _modified_s(headers), archive),))

    def read(
        self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
    ) -> Iterator[bytes]:
        if file.size_bytes == 0:
            return
        if start == 0 and end == file.size_bytes:
            end = None

        def check(answer: Document) -> None:
            if _tag(answer.headers) != file.tag:
                raise ArtifactChanged(f"{shown(snapshot.uri)} is not what it was when it was "
                                      "looked at; it is looked at anew")

        yield from self._web.pieces(
            self._request(snapshot.uri, {}), start, end, self._refused, check)

    def _request(self, uri: str, extra: Mapping[str, str]) -> Request:
        check_web_uri(uri)
        own = self._own_headers(uri) if self._access is not None else {}
        return Request(shown(uri), uri, {**own, **extra}, coded=True)

    def _own_headers(self, uri: str) -> Mapping[str, str]:
        """What the credentials add, where this host may see it."""
        access = self._access
        assert access is not None
        if _may_have(access, uri):
            headers: Mapping[str, str] = json.loads(access.get("headers") or "{}")
            return headers
        if access.is_default:
            return {}
        raise InvalidSpecification(
            f"credentials {access.name!r} are for another host than that of {shown(uri)}; name "
            "others, or none")

    def _refused(self, answer: Document) -> ShoalError:
        name, status = answer.about, answer.status
        if status in (401, 403, 407):
            access = self._access
            whose = f"credentials {access.name!r}" if access is not None else "no credentials"
            return PlaceDenied(f"{name} may not be read with {whose}: it answers {status}; name "
                               "credentials that may, or ask those who run it")
        if status in (404, 410):
            return ArtifactMissing(f"{name} does not exist: it answers {status}; put the artifact "
                                   "there, or correct the URI")
        return PlaceUnavailable(
            f"{name} cannot be read now: it answers {status}; it is tried again")


def check_web_uri(uri: str) -> None:
    """Raises InvalidSpecification for what cannot be the URI of a file."""
    try:
        parts = urlsplit(uri)
        port_is_right = _port(uri) is not None
    except ValueError:
        port_is_right = False
    if not port_is_right or not parts.hostname or any(each <= " " for each in uri):
        raise InvalidSpecification(f"uri {shown(uri)} is no URL; write https://HOST/PATH")
    if "@" in parts.netloc:
        raise InvalidSpecification(
            f"uri {shown(uri)} has a user or password in it, which would be shown wherever the "
            "URI is; remove them, and use credentials by name")
    if parts.path.endswith("/") or not parts.path:
        raise InvalidSpecification(
            f"uri {shown(uri)} names no file: web servers have no folders; give the URI of one "
            f"file, or of an archive ({', '.join(SUFFIXES)})")


def _may_have(access: Access, uri: str) -> bool:
    """May the host of `uri` see the credentials?"""
    host = access.get("host")
    if not host:
        return True
    mine, other = urlsplit(host if "://" in host else f"//{host}"), urlsplit(uri)
    if mine.scheme and mine.scheme != other.scheme.lower():
        return False
    port = mine.port or _PORTS.get(mine.scheme or other.scheme.lower())
    return mine.hostname == other.hostname and port == _port(uri)


def _tag(headers: Mapping[str, str]) -> str:
    return headers.get("etag", "") or headers.get("last-modified", "")


def _modified_s(headers: Mapping[str, str]) -> float | None:
    try:
        return parsedate_to_datetime(headers["last-modified"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None


def _port(uri: str) -> int | None:
    parts = urlsplit(uri)
    return parts.port or _PORTS.get(parts.scheme.lower())
