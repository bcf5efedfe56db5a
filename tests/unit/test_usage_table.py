"""When models were used: packed, and nothing lost by it."""

from __future__ import annotations

import msgspec
import pytest

from shoal.node.usage import Usage, UsageTable, pack, unpack

DIGEST = "sha256:" + "0f" * 32


@pytest.mark.parametrize(
    "usage", [Usage(1.5), Usage(1763720000.123, DIGEST, 70_000), Usage(2.0, "md5:1", 2**62)],
    ids=["time", "all", "other-digest"],
)
def test_what_is_packed_comes_back(usage: Usage) -> None:
    assert unpack(pack(usage)) == usage


def test_it_is_small() -> None:
    assert len(pack(Usage(1763720000.123, DIGEST, 70_000))) <= 52


def test_what_earlier_releases_saved_is_read() -> None:
    usage = Usage(1.5, DIGEST, 7)
    assert unpack(msgspec.json.encode(usage)) == usage


@pytest.mark.parametrize("value", [b"", b"nonsense", b"\x01", b"\x01\x90", b"{}"])
def test_what_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        unpack(value)


def test_a_table_is_a_mapping_that_knows_what_is_to_be_stored() -> None:
    table = UsageTable()
    table["m"] = Usage(1.0, DIGEST, 5)
    assert (table["m"], table.get("n"), len(table), "m" in table) == (
        Usage(1.0, DIGEST, 5), None, 1, True)
    assert unpack(table.stored("m")) == table["m"]
    del table["m"]
    assert table == {}
