"""Reads where an etcd is and how to sign in, from the settings of the registry.

Refuses what cannot work before anything is connected. Imports no gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shoal.domain.errors import InvalidSpecification
from shoal.settings import RegistrySettings

_PORT: Final = 2379
_PREFIX: Final = "/shoal/"
_SCHEMES: Final = ("etcd", "etcds")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM, read anew for every connection, so that renewed ones count. ca: None, the
    system's authorities. pair: the client's certificate and its key."""

    ca: Path | None = None
    pair: tuple[Path, Path] | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """password: as it is, or the file that has it, read anew for every sign-in."""

    user: str
    password: str | Path = field(repr=False)


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """endpoints: each `host:port`. prefix: of all keys, ends with a slash. tls: None, plain
    connections. timeout_s: for one request, whichever endpoints it is tried at."""

    endpoints: tuple[str, ...]
    prefix: str = _PREFIX
    tls: Tls | None = None
    login: Login | None = None
    timeout_s: float = 5.0

    @property
    def url(self) -> str:
        """For people; without any secret."""
        scheme = "etcd" if self.tls is None else "etcds"
        return f"{scheme}://{','.join(self.endpoints)}{self.prefix}"


def is_etcd(url: str) -> bool:
    """Does `url` name an etcd, be it in a wrong way?"""
    return url.partition(":")[0] in _SCHEMES and "://" in url


def read_options(registry: RegistrySettings) -> EtcdOptions:
    """Of settings whose `url` is an etcd's. Reads no file. Raises InvalidSpecification."""
    url = registry.url
    parts = urlsplit(url)
    if "@" in parts.netloc:  # not repeated: it may hold a password
        raise InvalidSpecification(
            "registry.url names a user: URLs are shown and logged, so set registry.username and "
            "registry.password or password_file instead"
        )
    if parts.query or parts.fragment or not parts.netloc:
        raise _refused(url)
    path = unquote(parts.path).strip("/")
    return EtcdOptions(
        endpoints=tuple(dict.fromkeys(_endpoint(each, url) for each in parts.netloc.split(","))),
        prefix=f"/{path}/" if path else _PREFIX,
        tls=_tls(registry, secure=parts.scheme == "etcds"),
        login=_login(registry),
        timeout_s=registry.timeout_s,
    )


def _endpoint(text: str, url: str) -> str:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port or _PORT
    except ValueError:
        raise _refused(url) from None
    if not parts.hostname:
        raise _refused(url)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


def _refused(url: str) -> InvalidSpecification:
    return InvalidSpecification(
        f"registry.url: {url!r} names no etcd; write it as `etcd://host:2379,host2:2379/prefix`, "
        "or with `etcds://` for TLS"
    )


def _tls(registry: RegistrySettings, *, secure: bool) -> Tls | None:
    given = [
        f"registry.{name}" for name in ("ca_file", "cert_file", "key_file")
        if getattr(registry, name)
    ]
    if not secure:
        if given:
            raise InvalidSpecification(
                f"{given[0]} is set, but registry.url is a plain connection: write `etcds://`"
            )
        return None
    if bool(registry.cert_file) != bool(registry.key_file):
        raise InvalidSpecification(
            "registry.cert_file and registry.key_file belong together: set both, or neither"
        )
    pair = (_file(registry.cert_file), _file(registry.key_file)) if registry.cert_file else None
    return Tls(_file(registry.ca_file) if registry.ca_file else None, pair)


def _login(registry: RegistrySettings) -> Login | None:
    password = registry.password.get_secret_value()
    if not registry.username:
        if password or registry.password_file:
            raise InvalidSpecification(
                "a password of the registry is set without a user: set registry.username"
            )
        return None
    if bool(password) == bool(registry.password_file):
        raise InvalidSpecification(
            "registry.username needs a password: set either registry.password or "
            "registry.password_file"
        )
    return Login(registry.username, password or _file(registry.password_file))


def _file(text: str) -> Path:
    return Path(text).expanduser()
