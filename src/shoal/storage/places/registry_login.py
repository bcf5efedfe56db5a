"""Proves to a registry of images who asks: by a password, or by a token that one is exchanged for.

Follows the distribution specification's token authentication
(https://distribution.github.io/distribution/spec/auth/token/) and what `docker login` writes. Knows
nothing of images.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec

from shoal.domain.errors import InvalidSpecification, PlaceDenied, PlaceUnavailable
from shoal.storage.files import readable_name
from shoal.storage.places.credentials import Access
from shoal.storage.places.web_client import Document, Request, WebClient, basic, is_local

_DOCKER_HUB: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")
_PARAMETER: Final = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_LEAST_LIFE_S: Final = 60.0  # of a token that does not say how long it is good for
_MARGIN_S: Final = 10.0


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """token: a registry's own (a refresh token), instead of a password. source: names where it
    comes from, for messages."""

    username: str = ""
    password: str = ""
    token: str = ""
    source: str = ""

    @property
    def basic(self) -> str:
        return basic(self.username, self.password)

    def __bool__(self) -> bool:
        return bool(self.password or self.token)


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float = _LEAST_LIFE_S


def login_of(access: Access, registry: str) -> Login:
    """Named credentials, for the registry they are meant for. Raises InvalidSpecification when they
    do not say which one that is: else whoever may register a model could have them sent anywhere.
    """
    host = access.get("host").removeprefix("https://").removeprefix("http://").rstrip("/")
    if not host:
        raise InvalidSpecification(
            f"credentials {access.name!r} do not say which registry they are for; add the field "
            "'host' to them")
    if host_of(host) != host_of(registry):
        if access.is_default:
            return docker_login(registry)
        raise InvalidSpecification(
            f"credentials {access.name!r} are for {host}, and not for {registry}; name others")
    login = Login(access.get("username"), access.get("password"), access.get("token"),
                  f"the credentials {access.name!r}")
    return login or docker_login(registry)  # they may only name an authority


def docker_login(registry: str, environment: Mapping[str, str] = os.environ) -> Login:
    """What `docker login`, `podman login` or a mounted secret left for this registry, but not in a
    credential helper: those are programs, which are not run. An empty one where there is none.

    Raises InvalidSpecification for a file that cannot be understood.
    """
    for path in _files(environment):
        try:
            config = json.loads(path.expanduser().read_text())
        except (FileNotFoundError, NotADirectoryError, PermissionError, RuntimeError):
            continue
        except (OSError, ValueError) as error:
            raise InvalidSpecification(
                f"{readable_name(path)}, where registries' credentials are kept, cannot be read "
                f"({type(error).__name__}); repair or remove it") from error
        found = _of_config(config, registry, readable_name(path))
        if found or found.source:
            return found
    return Login()


def _of_config(config: object, registry: str, path: str) -> Login:
    if not isinstance(config, dict):
        return Login()
    auths = config.get("auths")
    for key, entry in (auths.items() if isinstance(auths, dict) else ()):
        if host_of(key) == host_of(registry) and isinstance(entry, dict):
            found = _of_entry(entry, path)
            if found:
                return found
    helpers = config.get("credHelpers")
    helped = isinstance(helpers, dict) and any(host_of(key) == host_of(registry) for key in helpers)
    if helped or config.get("credsStore"):
        return Login(source=f"a credential helper of {path}, which is a program and is not run")
    return Login()


def _of_entry(entry: Mapping[str, object], path: str) -> Login:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Login(token=token, source=path)
    username, password = entry.get("username"), entry.get("password")
    if isinstance(username, str) and isinstance(password, str) and password:
        return Login(username, password, source=path)
    try:
        pair = base64.b64decode(str(entry.get("auth") or ""), validate=True).decode()
    except ValueError:
        return Login()
    username, _, password = pair.rstrip("\0").partition(":")
    return Login(username, password, source=path)


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    yield Path(environment.get("DOCKER_CONFIG") or "~/.docker", "config.json")
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers", "auth.json")


def host_of(registry: str) -> str:
    """The host of a registry or of a key of a configuration, which may be a URL; of Docker Hub's
    several the one."""
    host = registry.partition("://")[2] or registry
    host = host.partition("/")[0].lower()
    return "docker.io" if host in _DOCKER_HUB else host


class Session:
    """Asks one registry, and answers its challenges. plain: it is spoken to without TLS. Safe for
    threads."""

    def __init__(self, registry: str, login: Login, web: WebClient, *, plain: bool = False,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._plain = plain
        self._login = login
        self._web = web
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float]] = {}  # by scope: the header, and until when

    def ask(self, about: str, url: str, scope: str, accept: str) -> Document:
        """Raises PlaceDenied, PlaceUnavailable."""
        headers = {"Accept": accept, **self.headers(scope)}
        answer = self._web.ask(Request(about, url, headers))
        if answer.status == 401 and self.answer_challenge(about, scope, answer):
            headers = {"Accept": accept, **self.headers(scope)}
            answer = self._web.ask(Request(about, url, headers))
        return answer

    def headers(self, scope: str) -> dict[str, str]:
        """What to send with a request within `scope`, as far as it is known."""
        with self._lock:
            header, until = self._known.get(scope, ("", 0.0))
        return {"Authorization": header} if header and self._clock() < until else {}

    def answer_challenge(self, about: str, scope: str, answer: Document) -> bool:
        """Do what the registry wants before it answers. False: nothing can be done.

        Raises PlaceDenied when that fails, PlaceUnavailable.
        """
        kind, _, rest = answer.headers.get("www-authenticate", "").partition(" ")
        if kind.lower() == "bearer":
            header, life_s = self._token(about, scope, _parameters(rest))
        elif kind.lower() == "basic" and self._login.password:
            header, life_s = self._login.basic, 3600.0
        else:
            return False
        with self._lock:
            self._known[scope] = header, self._clock() + max(life_s - _MARGIN_S, 1.0)
        return True

    def _token(self, about: str, scope: str, challenge: Mapping[str, str]) -> tuple[str, float]:
        realm = challenge.get("realm", "")
        try:
            parts = urlsplit(realm)
        except ValueError:
            parts = urlsplit("")
        near = is_local(self._registry) and is_local(parts.netloc)
        same = parts.netloc.lower() == self._registry
        secure = parts.scheme == "https" or (
            parts.scheme == "http" and self._plain and (near or same))
        if not secure:
            raise PlaceUnavailable(
                f"{about}: the registry sends us for a token to {parts.hostname or 'nowhere'}, "
                "which is not asked without https")
        wanted = {"service": challenge.get("service", ""), "scope": challenge.get("scope", scope)}
        if self._login.token:
            request = Request(about, realm, {}, "POST", {
                "grant_type": "refresh_token", "refresh_token": self._login.token,
                "client_id": "shoal", **wanted})
        else:
            headers = {"Authorization": self._login.basic} if self._login else {}
            joint = "&" if parts.query else "?"
            request = Request(about, f"{realm}{joint}{urlencode(wanted)}", headers)
        answer = self._web.ask(request)
        if answer.status != 200:
            raise self.denied(about, answer.status)
        token = answer.json(_Token)
        return f"Bearer {token.access_token or token.token}", token.expires_in

    def denied(self, about: str, status: int) -> PlaceDenied:
        if self._login:
            tried = f"does not accept what {self._login.source} has for it, or does not let it read"
        elif self._login.source:
            tried = f"lets only those read who are known; there is only {self._login.source}"
        else:
            tried = ("has no such thing, or lets only those read who are known, and there are no "
                     "credentials for it")
        return PlaceDenied(
            f"{about}: {self._registry} {tried} ({status}); log in with `docker login "
            f"{self._registry}` where Shoal runs, or name credentials of the type 'oci'")


def _parameters(text: str) -> dict[str, str]:
    """Of a challenge (RFC 9110, 11.6.1)."""
    return {name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
            for name, quoted, plain in _PARAMETER.findall(text)}
