"""Encrypts what must not be read by who reads the registry: AES-256-GCM, with keys of a file.

A key file has a key a line: 32 random bytes in base64 (`openssl rand -base64 32`) or hex. The first
encrypts; the others, older ones, still decrypt. Knows neither the registry nor what is encrypted.
"""

from __future__ import annotations

import base64
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.storage.files import readable_name

SETTING: Final = "storage.credentials_key_file"

_KEY_BYTES: Final = 32
_MARK_BYTES: Final = 8  # of a key's digest, by which it is found
_NONCE_BYTES: Final = 12  # NIST SP 800-38D, 8.2: at random for up to 2**32 messages a key
_MAX_BYTES: Final = 64 * 1024
_MARK_OF: Final = b"shoal credentials key\0"


class Keys:
    """Those of a key file, or none. Their text shows none of them."""

    def __init__(self, keys: tuple[bytes, ...] = (), path: str = "") -> None:
        self._keys = {_mark(key): key for key in keys}
        self._path = path

    @classmethod
    def read(cls, path: str) -> Keys:
        """Blocking. path: empty for none. Raises InvalidSpecification, without a word of what the
        file holds."""
        if not path:
            return cls()
        file = Path(path).expanduser()
        where = f"{SETTING}: {readable_name(file)}"
        try:
            with file.open("rb") as source:
                text = source.read(_MAX_BYTES + 1)
        except OSError as error:
            raise InvalidSpecification(
                f"{where} cannot be read: {error.strerror or error}; make one with `openssl rand "
                "-base64 32`, for all instances the same") from None
        lines = [(number, line.strip()) for number, line in enumerate(text.split(b"\n"), 1)]
        found = tuple(_key(line, f"{where}, line {number}") for number, line in lines
                      if line and not line.startswith(b"#"))
        if not found:
            raise InvalidSpecification(
                f"{where} holds no key; make one with `openssl rand -base64 32`")
        _check_package(where)
        return cls(found, readable_name(file))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"Keys({len(self._keys)} of {self._path!r})"

    def seal(self, data: bytes, about: bytes) -> bytes:
        """`data`, encrypted with the first key; `about` is not in it, but has to be said again to
        open it. There must be a key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        mark, key = next(iter(self._keys.items()))
        nonce = os.urandom(_NONCE_BYTES)
        return mark + nonce + AESGCM(key).encrypt(nonce, data, about)

    def open(self, sealed: bytes, about: bytes, what: str) -> bytes:
        """What `seal` was given. what: names it in messages. Raises InvalidSpecification."""
        key = self._keys.get(sealed[:_MARK_BYTES])
        if key is None and self._keys:
            raise InvalidSpecification(
                f"{what} are encrypted with a key that {self._path} does not hold; add it there as "
                "another line and start anew, or set them again")
        if key is None:
            raise InvalidSpecification(
                f"{what} are encrypted, and this instance has no key; say the file with it by "
                f"{SETTING}, or set them again")
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        rest = sealed[_MARK_BYTES:]
        try:
            return AESGCM(key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError):
            raise InvalidSpecification(
                f"{what} are not what was written: they were changed or damaged; set them again"
            ) from None


def _mark(key: bytes) -> bytes:
    return hashlib.sha256(_MARK_OF + key).digest()[:_MARK_BYTES]


def _key(line: bytes, where: str) -> bytes:
    for read in (bytes.fromhex, partial(base64.b64decode, validate=True)):
        try:
            key = read(line.decode("ascii"))
        except ValueError:
            continue
        if len(key) == _KEY_BYTES:
            return key
    raise InvalidSpecification(
        f"{where} is no key: expected {_KEY_BYTES} bytes in base64 or hex, as "
        f"`openssl rand -base64 {_KEY_BYTES}` prints them")


def _check_package(where: str) -> None:
    try:
        import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401
    except ImportError:
        raise InvalidSpecification(
            f"{where}: encryption needs the package cryptography, which is not installed; run: "
            "pip install 'shoal[encryption]'") from None
