"""Members as the registry keeps them: JSON under `instances/<id>`. Must not know when they change.

A record may come from another release: fields that are unknown are ignored, fields that are missing
have their defaults. `format` grows only when releases before could not make sense of a record.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shoal.domain.mesh import Member

INSTANCES: Final = "instances/"
FORMAT: Final = 1


class MemberRecord(msgspec.Struct, frozen=True, kw_only=True):
    """turn: differs where others must take notice; alike, only figures have changed."""

    format: int = FORMAT
    turn: int = 0
    member: Member


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(MemberRecord)


def key_of(instance: str) -> str:
    return INSTANCES + instance


def encode(record: MemberRecord) -> bytes:
    return _encoder.encode(record)


def decode(key: str, value: bytes) -> MemberRecord:
    """Raises ValueError with a sentence that names the record."""
    name = key.removeprefix(INSTANCES)
    try:
        record = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the registry's record of instance {name!r} cannot be read ({error}) and is ignored: "
            "stop what wrote it, or upgrade this instance"
        ) from error
    if record.format > FORMAT:
        raise ValueError(
            f"the registry's record of instance {name!r} has format {record.format}, this Shoal "
            f"knows {FORMAT}; it is ignored: upgrade this instance"
        )
    if record.member.id != name:
        raise ValueError(
            f"the registry's record of instance {name!r} speaks of {record.member.id!r} and is "
            "ignored: delete it"
        )
    return record


def is_news(older: MemberRecord | None, newer: MemberRecord) -> bool:
    """Is there more to it than figures?"""
    if older is None or older.turn != newer.turn:
        return True
    return msgspec.structs.replace(older.member, figures=newer.member.figures) != newer.member


def described(member: Member) -> str:
    """For people who have to find it."""
    where = ", ".join(part for part in (
        f"host {member.host}" if member.host else "",
        f"process {member.pid}" if member.pid else "",
        f"address {member.address}" if member.address else "",
    ) if part)
    return f"{member.id} ({where or 'it does not say where it runs'})"
