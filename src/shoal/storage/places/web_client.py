"""Asks servers over HTTP as places need it: again where that helps, and without telling anybody a
secret that is not meant for him.

What the answers mean is for the places. Their URLs may be signed, so messages name only hosts.
"""

from __future__ import annotations

import atexit
import base64
import email.utils
import functools
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.cookiejar import DefaultCookiePolicy
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2
import msgspec

from shoal.domain.errors import ArtifactChanged, PlaceDenied, PlaceUnavailable
from shoal.storage.places.reach import Trust

_T = TypeVar("_T")

_BUSY: Final = (429, 500, 502, 503, 504)
_MOVED: Final = (301, 302, 303, 307, 308)
_MAX_MOVES: Final = 5
_MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024
_PIECE_BYTES: Final = 256 * 1024
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_CONNECT_S: Final = 10.0
_MAX_CLIENTS: Final = 128
_SENT_ON: Final = ("accept", "accept-encoding", "range")  # to other servers than the one asked
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a document is asked for when the server is busy or lost, and how long is waited.

    first_wait_s: doubled each time. longest_wait_s: a server that asks to be left alone for longer
    is left alone. silence_s: how long nothing may come from a server. sleep: an argument for tests.
    """

    attempts: int = 4
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0
    silence_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Request:
    """about: what messages call the thing that is asked for. headers: what may be secret in them is
    sent to the server of `url` alone, and not where that sends us on to. coded: may a whole file
    come compressed on the way, although it is asked not to? Then it is unpacked."""

    about: str
    url: str
    headers: Mapping[str, str]
    method: str = "GET"
    form: Mapping[str, str] | None = None
    coded: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """An answer that was read whole, or of which the head alone was. Header names are in lower
    case."""

    about: str
    host: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, kind: type[_T]) -> _T:
        """Raises PlaceUnavailable for another answer than expected."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PlaceUnavailable(
                f"{self.about}: {self.host} answers with something else than the JSON that is "
                f"expected ({error}); is a proxy or a login page between?"
            ) from error


def is_local(host: str) -> bool:
    """Is it this machine? host: a name or an address, with a port or without."""
    try:
        return urlsplit(f"//{host}").hostname in _LOCAL_HOSTS
    except ValueError:
        return False


def basic(username: str, password: str) -> str:
    """The header `Authorization` of a user with a password (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


class WebClient:
    """Connections are shared by all in the process who trust alike; instances cost nothing."""

    def __init__(self, patience: Patience | None = None, trust: Trust | None = None) -> None:
        self._patience = patience or Patience()
        self._trust = trust or Trust()

    def ask(self, request: Request, *, whole: bool = True) -> Document:
        """whole: False: only the head of the answer is read.

        Raises PlaceUnavailable when nobody answers, or only that he is busy."""
        failures = 0
        while True:
            failures += 1
            last = failures >= self._patience.attempts
            wait_s = self._patience.first_wait_s * 2.0 ** (failures - 1)
            try:
                answer = self._ask_once(request, whole=whole)
            except PlaceUnavailable:
                if last:
                    raise
            else:
                if answer.status not in _BUSY:
                    return answer
                wait_s = max(wait_s, _asked_to_wait_s(answer.headers))
                if last or wait_s > self._patience.longest_wait_s:
                    raise busy(request.about, answer.host, answer.status, answer.headers)
            self._patience.sleep(wait_s)

    def _ask_once(self, request: Request, *, whole: bool) -> Document:
        with self.open(request) as response:
            body = bytearray()
            for piece in _raw(response, request) if whole else ():
                body += piece
                if len(body) > _MAX_DOCUMENT_BYTES:
                    raise PlaceUnavailable(
                        f"{request.about}: {response.url.host} answers with more than "
                        f"{_MAX_DOCUMENT_BYTES:,} bytes, which no list of files has")
            return _document(request, response, bytes(body))

    def pieces(self, request: Request, start: int, end: int | None,
               refused: Callable[[Document], Exception],
               check: Callable[[Document], None] = lambda _: None) -> Iterator[bytes]:
        """The bytes of a file from `start` to before `end`.

        refused: the error for an answer that brings no bytes. check: raises for the head of one
        that brings others than are meant.
        Raises ArtifactChanged where the file ends before `start`, PlaceUnavailable.
        """
        if end is not None and end <= start:
            return
        headers = dict(request.headers)
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        ranged = replace(request, headers=headers)
        with self.open(ranged) as response:
            status = response.status_code
            if status == 416:
                raise ArtifactChanged(
                    f"{request.about} is shorter than it was; it is looked at anew")
            if status in _BUSY:
                raise busy(request.about, response.url.host, status, _headers(response))
            if status not in (200, 206):
                body = next(_raw(response, request), b"")
                raise refused(_document(request, response, body))
            check(_document(request, response))
            begun = _begun(response, request.about) if status == 206 else 0
            if begun > start:
                raise PlaceUnavailable(
                    f"{request.about}: {response.url.host} sent bytes from {begun:,} on, though "
                    f"those from {start:,} on were asked for")
            yield from _cut(_raw(response, request), start - begun,
                            None if end is None else end - begun)

    @contextmanager
    def open(self, request: Request) -> Iterator[httpx2.Response]:
        """The answer as it comes, wherever the server sends us on to; to be read with `pieces` or
        `ask`. Raises PlaceUnavailable, also from within; PlaceDenied for credentials that cannot be
        sent."""
        if not all(value.isascii() and value.isprintable() for value in request.headers.values()):
            raise PlaceDenied(
                f"{request.about}: the credentials for it have characters in them that cannot be "
                "sent; write them anew")
        url, headers = request.url, {"Accept-Encoding": "identity", **request.headers}
        method, form = request.method, request.form
        for _ in range(_MAX_MOVES + 1):
            with _put_into_words(request.about, url):
                client = _client(self._trust.context(), is_local(urlsplit(url).netloc))
                made = client.build_request(
                    method, url, headers=headers, data=form, timeout=self._timeout)
                response = client.send(made, stream=True)
            target = response.headers.get("location", "")
            if response.status_code not in _MOVED or not target:
                break
            response.close()
            url, before = _moved(request.about, url, target), url
            if _origin(url) != _origin(before):
                headers = {name: value for name, value in headers.items()
                           if name.lower() in _SENT_ON}
            if response.status_code == 303:
                method, form = "GET", None
        else:
            raise PlaceUnavailable(
                f"{request.about}: {urlsplit(request.url).hostname} sends us from one address to "
                f"another, more than {_MAX_MOVES} times; give the address that it ends at")
        try:
            with _put_into_words(request.about, url):
                yield response
        finally:
            response.close()

    @property
    def _timeout(self) -> httpx2.Timeout:
        silence_s = self._patience.silence_s
        return httpx2.Timeout(silence_s, connect=min(_CONNECT_S, silence_s), pool=None)


def busy(about: str, host: str, status: int, headers: Mapping[str, str]) -> PlaceUnavailable:
    """The error for an answer that another time may be a better one."""
    wait_s = _asked_to_wait_s(headers)
    when = f"it asks to wait {wait_s:.0f} s" if wait_s else "it is tried again later"
    what = "is asked too often" if status == 429 else f"answers with status {status}"
    return PlaceUnavailable(f"{about}: {host} {what}; {when}", wait_s or None)


@functools.lru_cache(_MAX_CLIENTS)
def _client(context: ssl.SSLContext, local: bool) -> httpx2.Client:
    """local: no proxy stands between."""
    client = httpx2.Client(
        verify=context, trust_env=not local, headers={"User-Agent": "shoal"},
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32,
                             keepalive_expiry=15.0))
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    atexit.register(client.close)
    return client


@contextmanager
def _put_into_words(about: str, url: str) -> Iterator[None]:
    """What is raised for a lost connection names neither query nor credential."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    try:
        yield
    except httpx2.TimeoutException as error:
        raise PlaceUnavailable(
            f"{about}: {host} does not answer in time; it is tried again later") from error
    except (httpx2.RequestError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise PlaceUnavailable(f"{about}: {host} {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    text = f"{error} {error.__cause__}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return ("has a certificate that is not trusted; give its authority's as 'certificate' in "
                "the credentials, or in storage.ca_file")
    if "Name or service not known" in text or "name resolution" in text:
        return "is a name that cannot be resolved; is the address right?"
    if "refused" in text:
        return "refuses connections; it is tried again later"
    reason = str(error) or type(error).__name__
    return f"cannot be reached, or the connection was cut ({reason}); is the address right?"


def _moved(about: str, url: str, target: str) -> str:
    """Never from a connection that nobody can read to one that anybody can."""
    old = urlsplit(url)
    try:
        moved = urljoin(url, target)
        new = urlsplit(moved)
    except ValueError as error:
        raise PlaceUnavailable(
            f"{about}: {old.hostname} sends us to an address that is none") from error
    if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
        raise PlaceUnavailable(
            f"{about}: {old.hostname} sends us to {new.scheme}://{new.hostname}, which is not "
            "followed from https")
    return moved


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _headers(response: httpx2.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _document(request: Request, response: httpx2.Response, body: bytes = b"") -> Document:
    return Document(
        request.about, response.url.host, response.status_code, _headers(response), body)


def _raw(response: httpx2.Response, request: Request) -> Iterator[bytes]:
    coding = response.headers.get("content-encoding", "identity")
    if coding.lower() not in ("", "identity"):
        if request.coded and response.status_code != 206:
            return response.iter_bytes(_PIECE_BYTES)
        raise PlaceUnavailable(
            f"{request.about}: {response.url.host} sends it in the coding {coding!r}, which was "
            "not asked for; is a proxy between?")
    return response.iter_raw(_PIECE_BYTES)


def _begun(response: httpx2.Response, about: str) -> int:
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if match is None:
        raise PlaceUnavailable(
            f"{about}: {response.url.host} sends a part, but does not say which one")
    return int(match.group(1))


def _cut(pieces: Iterator[bytes], skip: int, end: int | None) -> Iterator[bytes]:
    """What lies between two offsets of a stream: some servers send more than was asked for."""
    at = 0
    for piece in pieces:
        begin = max(0, skip - at)
        wanted = piece[begin : None if end is None else max(0, end - at)]
        at += len(piece)
        if wanted:
            yield wanted
        if end is not None and at >= end:
            return


def _asked_to_wait_s(headers: Mapping[str, str]) -> float:
    """`Retry-After` (RFC 9110, 10.2.3): seconds, or a date."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
