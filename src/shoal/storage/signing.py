"""Decides whether an artifact is signed by somebody whose keys are known.

Signatures are those of OpenSSF Model Signing (`model_signing sign key`, or `certificate`): a
sigstore bundle with a DSSE envelope, by an elliptic curve key, around an in-toto statement that
names every file with its SHA-256. From these the digest is made that the artifact must have, so
that no file is read here but to say which one differs. Who registered a model, and what the
registry says, counts for nothing here. Must not know how files come from elsewhere.

The package `model-signing` itself is not used to verify: it would read all files at each load, by
other rules of what belongs to a model, and brings sigstore's client along, for the network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from shoal.domain.errors import ArtifactChanged, InvalidSpecification, NotTrusted, RuntimeMissing
from shoal.domain.external_data import names_beside
from shoal.domain.model import Revision
from shoal.settings.groups import TrustSettings
from shoal.storage.digest import FileDigest, content_of, read_files
from shoal.storage.files import SIGNATURE, SIGNATURE_SUFFIX, ignored, readable_name, reading
from shoal.storage.names import shown, some
from shoal.storage.trust import covers
from shoal.storage.uri import is_remote

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MAX_SIGNATURE_BYTES: Final = 64 * 1024**2
"""Room for the names and digests of as many files as a model may have."""

_ABOVE: Final = 2  # folders above the artifact's own in which its signature may lie
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
_HASHES: Final = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


# --- the files of signatures, as far as they are needed -------------------------------------------


class _Signed(msgspec.Struct):
    sig: bytes


class _Envelope(msgspec.Struct, rename="camel"):
    payload: bytes
    payload_type: str
    signatures: list[_Signed]


class _Hint(msgspec.Struct):
    hint: str = ""


class _Material(msgspec.Struct, rename="camel"):
    public_key: _Hint = msgspec.field(default_factory=_Hint)


class _Bundle(msgspec.Struct, rename="camel"):
    dsse_envelope: _Envelope
    verification_material: _Material = msgspec.field(default_factory=_Material)


class _Resource(msgspec.Struct):
    name: str
    algorithm: str
    digest: str


class _Predicate(msgspec.Struct):
    resources: list[_Resource]


class _Statement(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: str
    predicate_type: str
    predicate: _Predicate


# --- where they lie -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """What was found. where: its path or URI, as people know it."""

    where: str
    content: bytes


def places_of(artifact: str, *, is_folder: bool) -> list[str]:
    """Where the signature of `artifact`, a path or URI with `/`, may lie; the first one counts."""
    if not artifact:
        return [SIGNATURE]
    places = [f"{artifact}/{SIGNATURE}"] if is_folder else []
    places.append(artifact + SIGNATURE_SUFFIX)
    above = artifact
    for _ in range(_ABOVE):
        above, joint, _ = above.rpartition("/")
        if above.endswith(":/") or (joint and not above):  # the host's, or the root
            break
        places.append(f"{above}/{SIGNATURE}" if above else SIGNATURE)
        if not above:
            break
    return places


def signature_at(path: Path) -> Signature | None:
    """The signature of what lies at `path` on this machine; None: there is none. Raises
    ArtifactMissing when it cannot be read, NotTrusted when it is too large to be one."""
    found = find_signature(path)
    return None if found is None else read_signature(found, readable_name(found))


def find_signature(path: Path) -> Path | None:
    """The file that signs what lies at `path` on this machine; None: there is none."""
    places = map(Path, places_of(str(path.absolute()), is_folder=path.is_dir()))
    return next((place for place in places if place.is_file()), None)


def read_signature(path: Path, where: str) -> Signature:
    """The signature in the file `path`. Raises as `signature_at`."""
    with reading(path), path.open("rb") as file:
        content = file.read(MAX_SIGNATURE_BYTES + 1)
    if len(content) > MAX_SIGNATURE_BYTES:
        raise NotTrusted(f"{where} is larger than a signature can be "
                         f"({MAX_SIGNATURE_BYTES:,} bytes); sign the model again")
    return Signature(where, content)


# --- whether they are good ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Key:
    key: EllipticCurvePublicKey
    hint: str  # by which signatures name it


class Signatures:
    """public_keys: files in PEM, each with an elliptic curve key or a certificate that holds one.
    locations: folders and URIs in which artifacts must be signed; none: all must be."""

    def __init__(self, public_keys: Iterable[str], locations: Iterable[str] = ()) -> None:
        """Raises InvalidSpecification for a file that holds no such key, RuntimeMissing where the
        package is missing that verifies."""
        self._keys = [_read_key(Path(each).expanduser()) for each in public_keys]
        self._locations = [each for each in locations if each]

    def wanted(self, uri: str) -> bool:
        """Must what lies at `uri` be signed? Blocking."""
        if not self._locations:
            return True
        if is_remote(uri):
            if ".." in uri.replace("#", "/").split("/"):
                return True
            return any(covers(each, uri) for each in self._locations if is_remote(each))
        given = Path(os.path.abspath(uri))
        real = given.resolve()
        for each in self._locations:
            if is_remote(each):
                continue
            location = Path(each).expanduser().absolute()
            if given.is_relative_to(location) or real.is_relative_to(location.resolve()):
                return True
        return False

    def check(self, revision: Revision, path: Path, signature: Signature | None) -> None:
        """Raise NotTrusted unless `signature` is by one of the keys and vouches for the content of
        `revision`, all of it. Blocking.

        path: where its files are; they are only read to say what is wrong.
        Raises ArtifactChanged when they are signed, but not what was declared.
        """
        name = readable_name(_without_secrets(revision.uri))
        artifact = name.replace("#", "/") if is_remote(revision.uri) else name
        if signature is None:
            places = places_of(artifact, is_folder=path.is_dir())
            raise NotTrusted(
                f"{name} is not signed, as trust.signatures requires: there is none of "
                f"{', '.join(places)}; sign it (model_signing sign key) with a key of "
                "trust.public_keys"
            )
        signed = self._verified(signature)
        views = list(_views(signed, artifact.split("/"), is_folder=path.is_dir()))
        if any(_digest(view) == revision.artifact_digest for view in views):
            return
        actual = {file.name: file.sha256 for file in read_files(path)}
        best = max(views, key=lambda view: len(view.keys() & actual.keys()), default={})
        raise _mismatch(name, signature.where, actual, best)

    def _verified(self, signature: Signature) -> dict[str, str]:
        """The SHA-256 of every file that it vouches for, by name. Raises NotTrusted."""
        try:
            bundle = msgspec.json.decode(signature.content, type=_Bundle)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable(signature, str(error)) from None
        envelope = bundle.dsse_envelope
        message = b"DSSEv1 %d %s %d %s" % (
            len(envelope.payload_type.encode()), envelope.payload_type.encode(),
            len(envelope.payload), envelope.payload)
        if not any(_is_by(each, signed.sig, message)
                   for each in self._keys for signed in envelope.signatures):
            if bundle.verification_material.public_key.hint in {each.hint for each in self._keys}:
                raise NotTrusted(
                    f"the signature {signature.where} was altered after it was made; sign the "
                    "model again")
            raise NotTrusted(
                f"the signature {signature.where} is by none of the keys in trust.public_keys; "
                "list the key's file there if you trust it, or sign the model with one of them")
        if envelope.payload_type != _PAYLOAD_TYPE:
            raise _unreadable(signature, f"its payload is {envelope.payload_type!r}")
        return _files_of(signature, envelope.payload)


def signatures_of(trust: TrustSettings) -> Signatures | None:
    """What the settings require; None: nothing. Raises as `Signatures`, and for settings that
    contradict each other."""
    if trust.signatures == "off":
        if trust.signed_locations:
            raise InvalidSpecification(
                "trust.signed_locations is set, but trust.signatures is off; set it to 'required', "
                "or remove the locations")
        return None
    if not trust.public_keys:
        raise InvalidSpecification(
            "trust.signatures is 'required', but trust.public_keys names no key, so nothing could "
            "be loaded; list the files of the public keys there")
    return Signatures(trust.public_keys, trust.signed_locations)


def _without_secrets(uri: str) -> str:
    if not is_remote(uri):
        return uri
    base, joint, inside = uri.partition("#")
    return shown(base) + joint + inside


def _read_key(path: Path) -> _Key:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    except ImportError:
        raise RuntimeMissing(
            "trust.signatures needs the package cryptography; install it: "
            "pip install 'shoal[signing]'") from None
    try:
        text = path.read_bytes()
        if b"BEGIN CERTIFICATE" in text:
            key = x509.load_pem_x509_certificate(text).public_key()
        else:
            key = serialization.load_pem_public_key(text)  # type: ignore[assignment]
    except OSError as error:
        raise InvalidSpecification(
            f"{path}, which trust.public_keys names, cannot be read: {error.strerror}") from None
    except ValueError:
        raise InvalidSpecification(
            f"{path}, which trust.public_keys names, holds no public key or certificate in PEM; "
            "make one: openssl pkey -in KEY -pubout") from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise InvalidSpecification(
            f"{path}, which trust.public_keys names, is no key that models are signed with; those "
            "are elliptic curve keys over NIST P-256, P-384 or P-521")
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _Key(key, hashlib.sha256(pem).hexdigest())


def _is_by(key: _Key, sig: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    try:
        key.key.verify(sig, message, ECDSA(getattr(hashes, _HASHES[key.key.curve.name])()))
    except InvalidSignature:
        return False
    return True


def _files_of(signature: Signature, payload: bytes) -> dict[str, str]:
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(signature, str(error)) from None
    if (statement.type, statement.predicate_type) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        raise _unreadable(signature, f"it states {statement.predicate_type!r}")
    files: dict[str, str] = {}
    for each in statement.predicate.resources:
        if each.algorithm != "sha256":
            raise NotTrusted(
                f"the signature {signature.where} names files by {each.algorithm}, and not by "
                "their SHA-256; sign the model again without another hash, and without shards")
        if files.setdefault(each.name, each.digest) != each.digest:
            raise _unreadable(signature, f"it names {each.name!r} twice")
    return files


def _unreadable(signature: Signature, why: str) -> NotTrusted:
    return NotTrusted(
        f"{signature.where} is no signature of OpenSSF Model Signing 1.0 ({why}); sign the model "
        "again (model_signing sign key)")


def _views(signed: Mapping[str, str], parts: list[str], *, is_folder: bool
           ) -> Iterator[dict[str, str]]:
    """The files of the artifact as `read_files` names them, if what was signed is the artifact
    itself, or a folder above it. parts: of the artifact's path."""
    if is_folder:
        yield _without_ignored(signed)
    elif "." in signed:  # so a lone file is named that was signed by itself
        yield {"": signed["."]}
    for depth in range(1, min(_ABOVE + 2, len(parts))):
        inside = "/".join(parts[-depth:])
        if is_folder:
            yield _without_ignored({name.removeprefix(f"{inside}/"): digest
                                    for name, digest in signed.items()
                                    if name.startswith(f"{inside}/")})
        elif inside in signed:
            folder = inside.removesuffix(parts[-1])
            beside = {name: signed[folder + name] for name in names_beside(parts[-1])
                      if folder + name in signed}
            yield {"": signed[inside], **beside}


def _without_ignored(signed: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in signed.items()
            if not any(map(ignored, name.split("/")))}


def _digest(view: Mapping[str, str]) -> str:
    return content_of([FileDigest(name, "", 0, view[name]) for name in sorted(view)]).digest


def _mismatch(name: str, where: str, actual: Mapping[str, str], signed: Mapping[str, str]
              ) -> NotTrusted | ArtifactChanged:
    reasons = [
        _named([each for each in actual if signed.get(each, actual[each]) != actual[each]],
               "differs from what was signed", "differ from what was signed"),
        _named([each for each in actual if each not in signed],
               "is not covered by it", "are not covered by it"),
        _named([each for each in signed if each not in actual],
               "was signed and is missing", "were signed and are missing"),
    ]
    said = "; ".join(reason for reason in reasons if reason)
    if not said:
        return ArtifactChanged(
            f"{name} is signed, but is not what was declared; register the model again to serve "
            "the new content")
    return NotTrusted(
        f"the signature {where} does not vouch for {name}: {said}; put back the files that were "
        "signed, or sign the model again")


def _named(names: list[str], one: str, several: str) -> str:
    if not names:
        return ""
    shown_names = some([readable_name(each) or "the file" for each in sorted(names)])
    return f"{shown_names} {one if len(names) == 1 else several}"
