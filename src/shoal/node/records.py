"""The compact form of a model's record, in memory and in the registry: some 100 bytes.

Left out is what the key (the name) or another field says already; what is rare is written whole.
Records written as JSON by earlier releases are read as well, and what a later one says more is
left out. Knows no store.

    byte 0      1, and 2 for a model that must be held (`pin`, `min_copies`), 4 for one that a
                watched folder declares
    the rest    a MessagePack array, `_Stored`
"""

from __future__ import annotations

from typing import Final

import msgspec

from shoal.codecs import foreign
from shoal.domain.model import ModelRecord, ModelSpec, Revision

_PLAIN: Final = 1
_PINNED: Final = 2
_FOLDER: Final = 4
_COMPACT: Final = tuple(bytes([_PLAIN | pinned | folder])
                        for pinned in (0, _PINNED) for folder in (0, _FOLDER))
FOLDER: Final = "folder:"  # what the origin of a folder's models begins with
_JSON: Final = b"{"  # of earlier releases
_SHA256: Final = "sha256:"
_FORMAT, _DIGEST = 1, 2  # bits of `_Stored.said`

# Fields that a revision has of its specification, where no description says otherwise.
_SHARED: Final = tuple(
    field for field in Revision.__struct_fields__
    if field in ModelSpec.__struct_fields__ and field not in ("uri", "format", "runtime")
)


class _Brief(msgspec.Struct, frozen=True, array_like=True):
    """A revision whose other fields are those of its specification.

    mark: the hex digits at the end of its id, as bytes. uri: None where it is the specification's;
    `+` and what follows that; or `=` and the whole. digest: of a SHA-256. runtime: never the
    specification's, since it was chosen.
    """

    mark: bytes
    version: int
    uri: str | None
    format: str
    digest: bytes
    files_bytes: int
    runtime: str | None = None


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """revisions: where one of them cannot be brief, all are in `whole`. said: which fields of the
    specification are those of the last revision (`_FORMAT`, `_DIGEST`). rare: the specification
    without these, name and URI, where it says more. origin: None for `api`."""

    uri: str
    registered_at: float
    revisions: tuple[_Brief, ...]
    whole: tuple[Revision, ...] | None
    said: int
    rare: ModelSpec | None
    problem: str | None
    origin: str | None
    unloaded: tuple[int, ...] = ()
    problem_code: str | None = None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Stored)
_JSON_DECODER: Final = msgspec.json.Decoder(ModelRecord)
_BLANK: Final = ModelSpec(name="", uri="")


def encode(record: ModelRecord) -> bytes:
    """The compact form. Its name is not in it."""
    spec = record.spec
    said, rare = _shared_with_last(record)
    briefs = [brief for each in record.revisions if (brief := _shortened(spec, each)) is not None]
    all_brief = len(briefs) == len(record.revisions)
    stored = _Stored(
        spec.uri, record.registered_at,
        tuple(briefs) if all_brief else (), None if all_brief else record.revisions, said,
        None if rare == _BLANK else rare,
        record.problem, None if record.origin == "api" else record.origin,
        record.unloaded, record.problem_code,
    )
    mark = _PLAIN | (_PINNED if spec.pin or spec.min_copies else 0)
    mark |= _FOLDER if record.origin.startswith(FOLDER) else 0
    return bytes([mark]) + _ENCODER.encode(stored)


def decode(name: str, value: bytes) -> ModelRecord:
    """What `encode` was given, or what an earlier release wrote as JSON. Raises
    msgspec.DecodeError, which says what is wrong."""
    if value.startswith(_JSON):
        return _JSON_DECODER.decode(value)
    if not value.startswith(_COMPACT):
        raise msgspec.DecodeError("it is written in no form that this release knows")
    stored = foreign.read(_DECODER, memoryview(value)[1:])
    if stored.said and not (stored.whole or stored.revisions):
        raise msgspec.DecodeError("it refers to a revision that it has not")
    spec = _spec(name, stored)
    return ModelRecord(
        name=name, spec=spec,
        revisions=stored.whole or tuple(_lengthened(spec, brief) for brief in stored.revisions),
        problem=stored.problem, origin=stored.origin or "api",
        registered_at=stored.registered_at, unloaded=stored.unloaded,
        problem_code=stored.problem_code,
    )


def _shared_with_last(record: ModelRecord) -> tuple[int, ModelSpec]:
    """`_Stored.said`, and the specification without what it says of."""
    rare = msgspec.structs.replace(record.spec, name="", uri="")
    said = 0
    if record.revisions:
        last = record.revisions[-1]
        if rare.format == last.format:
            said, rare = said | _FORMAT, msgspec.structs.replace(rare, format=None)
        if rare.digest == last.artifact_digest and pack_digest(last.artifact_digest) is not None:
            said, rare = said | _DIGEST, msgspec.structs.replace(rare, digest=None)
    return said, rare


def _spec(name: str, stored: _Stored) -> ModelSpec:
    spec = ModelSpec(name=name, uri=stored.uri) if stored.rare is None else (
        msgspec.structs.replace(stored.rare, name=name, uri=stored.uri))
    if stored.said == 0:
        return spec
    if stored.whole:
        form, digest = stored.whole[-1].format, stored.whole[-1].artifact_digest
    else:
        form, digest = stored.revisions[-1].format, unpack_digest(stored.revisions[-1].digest)
    return msgspec.structs.replace(
        spec, format=form if stored.said & _FORMAT else spec.format,
        digest=digest if stored.said & _DIGEST else spec.digest,
    )


def compact(name: str, value: bytes) -> bytes:
    """`value` in the compact form, whatever release wrote it. What is in it already is not read:
    stores tell by themselves when a value is not what was written. Raises msgspec.DecodeError."""
    if value.startswith(_COMPACT):
        return value
    return encode(decode(name, value))


def is_pinned(value: bytes) -> bool:
    """Of a value in the compact form, without reading it."""
    return bool(value[0] & _PINNED)


def is_of_folder(value: bytes) -> bool:
    """As `is_pinned`: does a watched folder declare it?"""
    return bool(value[0] & _FOLDER)


def pack_digest(digest: str) -> bytes | None:
    """The 32 bytes of a SHA-256 as `storage.digest` writes it; None for any other text."""
    if not digest.startswith(_SHA256) or len(digest) != len(_SHA256) + 64:
        return None
    return _unhex(digest[len(_SHA256) :])


def unpack_digest(packed: bytes) -> str:
    return _SHA256 + packed.hex()


def _shortened(spec: ModelSpec, revision: Revision) -> _Brief | None:
    digits = revision.id.rpartition("-")[2]
    mark, digest = _unhex(digits), pack_digest(revision.artifact_digest)
    if mark is None or digest is None:
        return None
    uri: str | None = None
    if revision.uri != spec.uri:
        longer = revision.uri.startswith(spec.uri)
        uri = f"+{revision.uri[len(spec.uri):]}" if longer else f"={revision.uri}"
    brief = _Brief(
        mark, revision.version, uri, revision.format, digest, revision.files_bytes,
        revision.runtime,
    )
    return brief if _lengthened(spec, brief) == revision else None


def _lengthened(spec: ModelSpec, brief: _Brief) -> Revision:
    uri = spec.uri
    if brief.uri is not None:
        uri = brief.uri[1:] if brief.uri.startswith("=") else uri + brief.uri[1:]
    return Revision(
        id=f"{spec.name}@{brief.version}-{brief.mark.hex()}", model=spec.name,
        version=brief.version, uri=uri, format=brief.format,
        artifact_digest=unpack_digest(brief.digest), files_bytes=brief.files_bytes,
        runtime=brief.runtime, **{field: getattr(spec, field) for field in _SHARED},
    )


def _unhex(digits: str) -> bytes | None:
    """The bytes that exactly these lower-case digits stand for; None when they are none."""
    try:
        packed = bytes.fromhex(digits)
    except ValueError:
        return None
    return packed if packed.hex() == digits else None
