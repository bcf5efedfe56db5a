"""Messages of the .proto files in `protos`, as bytes and as plain values.

Its descriptors live in a pool of their own: in the default one, tritonclient, KServe's SDK and
users' models register the same names, and one process may hold them all. Must not know what the
messages are for.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Final, TypeVar

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from shoal.domain.errors import InvalidRequest

T = TypeVar("T")

_FILES: Final = FileDescriptorSet.FromString(
    (files("shoal.codecs") / "protos" / "descriptors.binpb").read_bytes()
).file
_POOL: Final = DescriptorPool()


def _fill(pool: DescriptorPool) -> None:
    left = list(_FILES)
    added: set[str] = set()
    while left:
        file = next(each for each in left if added.issuperset(each.dependency))
        pool.AddSerializedFile(file.SerializeToString())
        added.add(file.name)
        left.remove(file)


_fill(_POOL)

SERVICES: Final = tuple(
    f"{file.package}.{service.name}" for file in _FILES for service in file.service
)
"""Full names of all services."""


@cache
def message_class(name: str) -> type[Message]:
    """By its full name, such as `inference.ModelConfigRequest`."""
    return GetMessageClass(_POOL.FindMessageTypeByName(name))


def parse(name: str, data: bytes | memoryview) -> Message:
    """Raises InvalidRequest for what is no such message."""
    message = message_class(name)()
    try:
        message.ParseFromString(bytes(data))
    except DecodeError as error:
        short = name.rpartition(".")[2]
        raise InvalidRequest(f"the request is not a valid {short} message: {error}") from None
    return message


def read(name: str, data: bytes | memoryview, kind: type[T]) -> T:
    """The message as a value of `kind`, a struct with its fields; fields that it has not are left
    out, as are those of the message that have their default. Raises InvalidRequest."""
    value = json_format.MessageToDict(parse(name, data), preserving_proto_field_name=True)
    return msgspec.convert(value, kind, strict=False)


def as_json(data: bytes) -> str:
    """Bytes as they stand in the value of a field for `write`."""
    return b64encode(data).decode()


def write(name: str, value: Mapping[str, object]) -> bytes:
    """`value` has the message's fields by their names, enums by the names of their values."""
    return json_format.ParseDict(dict(value), message_class(name)()).SerializeToString()


# --- descriptors, for reflection ------------------------------------------------------------------


def file_of_symbol(symbol: str) -> list[bytes] | None:
    """The serialized FileDescriptorProto that declares a service, method, message or enum, and
    those it imports; None if nobody does."""
    for file in _FILES:
        if symbol in _symbols(file):
            return file_named(file.name)
    return None


def file_named(name: str) -> list[bytes] | None:
    """As `file_of_symbol`."""
    by_name = {file.name: file for file in _FILES}
    if name not in by_name:
        return None
    wanted = [name]
    for each in wanted:
        wanted += [other for other in by_name[each].dependency if other not in wanted]
    return [by_name[each].SerializeToString() for each in wanted]


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    for service in file.service:
        full = f"{file.package}.{service.name}"
        yield full
        yield from (f"{full}.{method.name}" for method in service.method)
    waiting = [(file.package, message) for message in file.message_type]
    yield from (f"{file.package}.{enum.name}" for enum in file.enum_type)
    while waiting:
        scope, message = waiting.pop()
        full = f"{scope}.{message.name}"
        yield full
        yield from (f"{full}.{enum.name}" for enum in message.enum_type)
        waiting += [(full, inner) for inner in message.nested_type]
