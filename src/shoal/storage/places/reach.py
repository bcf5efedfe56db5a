"""How places are reached: whose certificates are trusted, as whom TLS speaks, and where there is
none. Opens no connection; knows no place."""

from __future__ import annotations

import functools
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.storage.places.credentials import Access

_MAX_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Reach:
    """What counts for every place, whatever its credentials. authorities: PEM of those trusted
    beside the system's. plain: registries of images, with their ports, that are asked without TLS
    beside those of this machine."""

    authorities: str = ""
    plain: tuple[str, ...] = ()

    @classmethod
    def read(cls, ca_file: str, plain: tuple[str, ...] = ()) -> Reach:
        """Raises InvalidSpecification for a file that cannot be read, or holds no certificates."""
        if not ca_file:
            return cls("", _hosts(plain))
        setting = f"storage.ca_file: {ca_file}"
        try:
            pem = Path(ca_file).expanduser().read_text()
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidSpecification(f"{setting} cannot be read; correct the path") from error
        _context(Trust(pem, whose=setting))
        return cls(pem, _hosts(plain))


@dataclass(frozen=True, slots=True, repr=False)
class Trust:
    """authorities: PEM, beside the system's. certificate, key: our own, PEM. whose: names them in
    messages."""

    authorities: str = ""
    certificate: str = ""
    key: str = ""
    whose: str = field(default="", compare=False)

    def context(self) -> ssl.SSLContext:
        """One for all who trust alike. Raises InvalidSpecification for what cannot be read."""
        return _context(self)


def trust_of(access: Access | None, reach: Reach) -> Trust:
    """Raises InvalidSpecification for certificates and keys that cannot be read."""
    if access is None:
        return Trust(reach.authorities)
    whose = f"credentials {access.name!r}"
    trust = Trust(
        certificates(access.values, whose, reach.authorities),
        access.get("client_certificate"), access.get("client_key"), whose)
    if trust != Trust():
        trust.context()
    return trust


def certificates(values: Mapping[str, str], whose: str, beside: str) -> str:
    """PEM of the authorities that credentials name, in `certificate` or in the file `ca_bundle`,
    and of those in `beside`; empty: none. Raises InvalidSpecification."""
    return "\n".join(pem for pem in (_certificates(values, whose), beside) if pem)


def _certificates(values: Mapping[str, str], whose: str) -> str:
    if "certificate" in values:
        return values["certificate"]
    path = values.get("ca_bundle")
    if not path:
        return ""
    try:
        return Path(path).expanduser().read_text()
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidSpecification(
            f"{whose}: the CA bundle {path} cannot be read; correct the path") from error


def _hosts(given: tuple[str, ...]) -> tuple[str, ...]:
    """As they are in URIs."""
    for each in given:
        if "/" in each or not each.isprintable():
            raise InvalidSpecification(
                f"storage.insecure_registries: {each!r} is no host; write HOST or HOST:PORT")
    return tuple(each.lower() for each in given)


@functools.lru_cache(_MAX_KEPT)
def _context(trust: Trust) -> ssl.SSLContext:
    import httpx2

    context: ssl.SSLContext = httpx2.create_ssl_context()
    try:
        if trust.authorities:
            context.load_verify_locations(cadata=trust.authorities)
        if trust.certificate:
            _load_chain(context, trust.certificate, trust.key)
    except (OSError, ValueError):  # ssl's errors are OSErrors
        raise InvalidSpecification(
            f"{trust.whose}: a certificate or key cannot be read; give PEM") from None
    return context


def _load_chain(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """The ssl module takes them only from a file: one that nobody else can read, and soon gone."""
    descriptor, path = tempfile.mkstemp(prefix="shoal-", suffix=".pem")
    try:
        with open(descriptor, "w") as target:
            target.write(f"{certificate}\n{key}\n")
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
