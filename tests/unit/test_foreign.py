"""What another release wrote is read as far as this one knows it."""

from __future__ import annotations

import msgspec
import pytest

from shoal.codecs import foreign


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int


class Row(msgspec.Struct, array_like=True):
    inner: Inner
    name: str = ""


class Outer(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    pairs: tuple[tuple[int, Inner], ...] = ()
    by_name: dict[str, Inner] = {}
    rows: list[Row] = []


class Other(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    size: int


DECODER: msgspec.msgpack.Decoder[Outer | Other] = msgspec.msgpack.Decoder(Outer | Other)
INNER = {"size": 1, "colour": "red"}


def read(**fields: object) -> Outer | Other:
    return foreign.read(DECODER, msgspec.msgpack.encode({"type": "Outer", **fields}))


@pytest.mark.parametrize(("fields", "known"), [
    ({"colour": "red"}, Outer()),
    ({"inner": INNER}, Outer(Inner(1))),
    ({"inner": None, "colour": "red"}, Outer()),
    ({"many": [INNER, {"size": 2}]}, Outer(many=(Inner(1), Inner(2)))),
    ({"pairs": [[7, INNER]]}, Outer(pairs=((7, Inner(1)),))),
    ({"by_name": {"colour": INNER}}, Outer(by_name={"colour": Inner(1)})),
    ({"rows": [[INNER, "a", "red"]]}, Outer(rows=[Row(Inner(1), "a")])),
    ({"type": "Other", "size": 1, "colour": "red"}, Other(1)),
], ids=["own", "inner", "none", "many", "pairs", "names", "rows", "tag"])  # fmt: skip
def test_unknown_fields_are_left_out_however_deep(
    fields: dict[str, object], known: Outer | Other
) -> None:
    assert read(**fields) == known


@pytest.mark.parametrize("fields", [
    {"inner": {"size": "large"}}, {"inner": {}}, {"many": 1}, {"rows": [[]]}, {"type": "Rumour"},
], ids=["type", "missing", "kind", "row", "tag"])  # fmt: skip
def test_what_is_wrong_is_still_refused(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(**fields)
