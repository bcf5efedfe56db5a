"""Content codings of bodies: limits, damage, negotiation."""

from __future__ import annotations

import gzip
import zlib

import pytest

from shoal.codecs import compression
from shoal.domain.errors import BodyTooLarge, InvalidRequest

TEXT = b"a line of text, a line of text, a line of text\n" * 50


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def refusal(body: bytes, encoding: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        compression.decompress(body, encoding, 10_000)
    return caught.value.message


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", gzip.compress(TEXT, mtime=0)),
        (b"X-GZIP", gzip.compress(TEXT, mtime=0)),
        (b"deflate", zlib.compress(TEXT)),
        (b"deflate", raw_deflate(TEXT)),
        (b"identity", TEXT),
        (b"", TEXT),
        (b" identity , gzip ", gzip.compress(TEXT, mtime=0)),
    ],
)
def test_what_was_encoded_comes_back(encoding: bytes, body: bytes) -> None:
    assert compression.decompress(body, encoding, len(TEXT)) == TEXT


def test_a_gzip_body_may_have_several_members() -> None:
    body = gzip.compress(TEXT[:100], mtime=0) + gzip.compress(TEXT[100:], mtime=0)
    assert compression.decompress(body, b"gzip", len(TEXT)) == TEXT


def test_a_gzip_body_of_very_many_members_is_refused() -> None:
    assert "more than 16 gzip members" in refusal(gzip.compress(b"", mtime=0) * 17, b"gzip")


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_stops_at_the_limit(encoding: bytes) -> None:
    bomb = gzip.compress(bytes(50_000_000)) if encoding == b"gzip" else zlib.compress(bytes(10**7))
    with pytest.raises(BodyTooLarge, match="more than 1000 bytes when decompressed"):
        compression.decompress(bomb, encoding, 1000)


def test_the_limit_holds_over_all_members() -> None:
    with pytest.raises(BodyTooLarge):
        compression.decompress(gzip.compress(TEXT, mtime=0) * 2, b"gzip", len(TEXT) + 1)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_what_is_not_encoded_as_it_says_is_refused(encoding: bytes) -> None:
    assert f"not valid {encoding.decode()}" in refusal(b"\xff\xfe plain text", encoding)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_an_empty_body_is_not_valid_in_any_encoding(encoding: bytes) -> None:
    assert "ends too early" in refusal(b"", encoding)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [(b"gzip", gzip.compress(TEXT, mtime=0)), (b"deflate", zlib.compress(TEXT))],
)
def test_a_body_cut_short_is_refused(encoding: bytes, body: bytes) -> None:
    assert "ends too early" in refusal(body[:-3], encoding)


def test_bytes_after_the_end_are_refused() -> None:
    assert "goes on after the end" in refusal(zlib.compress(TEXT) + b"more", b"deflate")
    assert "not valid gzip" in refusal(gzip.compress(TEXT, mtime=0) + b"more", b"gzip")


def test_several_encodings_are_refused() -> None:
    assert "several times (deflate, gzip)" in refusal(b"", b"deflate, gzip")


def test_an_unknown_encoding_is_refused_naming_the_known() -> None:
    assert "'br' is not supported; send gzip, deflate" in refusal(b"", b"br")


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"", None),
        (b"identity", None),
        (b"br", None),
        (b"gzip", "gzip"),
        (b"x-gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"deflate, gzip", "gzip"),
        (b"gzip;q=0.5, deflate;q=0.8", "deflate"),
        (b"GZIP ; Q=0.5", "gzip"),
        (b"gzip;q=0", None),
        (b"*", "gzip"),
        (b"*;q=0.1, gzip;q=0", "deflate"),
        (b"gzip;q=0.2, identity;q=0.7", None),
        (b"gzip;q=0.2, identity;q=0.1", "gzip"),
        (b"identity;q=0, *;q=0", None),
        (b"gzip;q=high", None),
        (b"gzip;q=7", None),
        (b"gzip;q=nan", None),
        (b",;=,gzip", "gzip"),
    ],
)
def test_the_client_chooses_the_encoding(accepted: bytes, chosen: str | None) -> None:
    assert compression.negotiate(accepted, 100_000) == chosen


def test_small_responses_are_left_alone() -> None:
    assert compression.negotiate(b"gzip", 100) is None


def test_small_responses_are_encoded_where_identity_is_refused() -> None:
    assert compression.negotiate(b"gzip, identity;q=0", 100) == "gzip"
    assert compression.negotiate(b"deflate, *;q=0", 100) == "deflate"


def test_parts_are_compressed_as_one_stream() -> None:
    parts: list[bytes | memoryview] = [TEXT[:500], memoryview(TEXT)[500:]]
    assert gzip.decompress(b"".join(compression.compress(parts, "gzip"))) == TEXT
    assert zlib.decompress(b"".join(compression.compress(parts, "deflate"))) == TEXT
