"""Reads what another release may have written: fields that are unknown here are left out.

What people declare is refused for a field that is misspelt, so the types for it allow no unknown
ones; between instances the same types must. Must not know which types these are.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import TypeVar, cast

import msgspec
from msgspec import inspect

T = TypeVar("T")


def read(decoder: msgspec.msgpack.Decoder[T], raw: bytes | memoryview) -> T:
    """What the decoder makes of `raw` without its unknown fields. Raises msgspec.DecodeError."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        known = _known(msgspec.msgpack.decode(raw), _type_info(cast(Hashable, decoder.type)))
        return decoder.decode(msgspec.msgpack.encode(known))


_type_info = lru_cache(maxsize=64)(inspect.type_info)


def _known(value: object, kind: inspect.Type) -> object:
    """`value` as far as a `kind` has it; what does not fit stays, for the decoder to refuse."""
    if isinstance(kind, inspect.UnionType):
        of = [each for each in kind.types if _is_of(value, each)]
        return _known(value, of[0]) if of else value
    if isinstance(value, dict):
        if isinstance(kind, inspect.StructType):
            fields = {field.encode_name: field.type for field in kind.fields}
            return {name: _known(each, fields[name]) if name in fields else each
                    for name, each in value.items() if name in fields or name == kind.tag_field}
        if isinstance(kind, inspect.DictType):
            return {name: _known(each, kind.value_type) for name, each in value.items()}
    if isinstance(value, list):
        if isinstance(kind, inspect.StructType):
            return [_known(each, field.type)
                    for each, field in zip(value, kind.fields, strict=False)]
        if isinstance(kind, inspect.TupleType):
            return [_known(each, item) for each, item in zip(value, kind.item_types, strict=False)]
        if isinstance(kind, inspect.ListType | inspect.VarTupleType):
            return [_known(each, kind.item_type) for each in value]
    return value


def _is_of(value: object, kind: inspect.Type) -> bool:
    """Is it this one of several kinds?"""
    if isinstance(value, dict):
        if isinstance(kind, inspect.StructType):
            return kind.tag is None or value.get(kind.tag_field) == kind.tag
        return isinstance(kind, inspect.DictType)
    if isinstance(value, list):
        return isinstance(kind, inspect.ListType | inspect.VarTupleType | inspect.TupleType) or (
            isinstance(kind, inspect.StructType) and kind.array_like)
    return False
