"""Decodes the protobuf text of a `config.pbtxt` to typed values, with no judgement of them.

Only the fields that `triton` reads are declared; any other is skipped, as Triton's own schema has
hundreds and grows.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec

from shoal.domain.errors import InvalidSpecification

if TYPE_CHECKING:
    from google.protobuf.message import Message

# Triton's names for the protocol's datatypes.
DATATYPES: Final = {
    "TYPE_BOOL": "BOOL",
    "TYPE_UINT8": "UINT8",
    "TYPE_UINT16": "UINT16",
    "TYPE_UINT32": "UINT32",
    "TYPE_UINT64": "UINT64",
    "TYPE_INT8": "INT8",
    "TYPE_INT16": "INT16",
    "TYPE_INT32": "INT32",
    "TYPE_INT64": "INT64",
    "TYPE_FP16": "FP16",
    "TYPE_FP32": "FP32",
    "TYPE_FP64": "FP64",
    "TYPE_STRING": "BYTES",
    "TYPE_BF16": "BF16",
}


class Reshape(msgspec.Struct, frozen=True):
    shape: tuple[int, ...] = ()


class Tensor(msgspec.Struct, frozen=True):
    name: str = ""
    data_type: str = "TYPE_INVALID"
    dims: tuple[int, ...] = ()
    reshape: Reshape | None = None


class Latest(msgspec.Struct, frozen=True):
    num_versions: int = 1


class Specific(msgspec.Struct, frozen=True):
    versions: tuple[int, ...] = ()


class All(msgspec.Struct, frozen=True):
    pass


class Policy(msgspec.Struct, frozen=True):
    latest: Latest | None = None
    all: All | None = None
    specific: Specific | None = None


class Parameter(msgspec.Struct, frozen=True):
    string_value: str = ""


class InstanceGroup(msgspec.Struct, frozen=True):
    count: int = 1


class Config(msgspec.Struct, frozen=True):
    """The part of Triton's ModelConfig that is read, by its field names."""

    name: str = ""
    platform: str = ""
    backend: str = ""
    max_batch_size: int = 0
    input: tuple[Tensor, ...] = ()
    output: tuple[Tensor, ...] = ()
    default_model_filename: str = ""
    version_policy: Policy | None = None
    parameters: dict[str, Parameter] = {}
    instance_group: tuple[InstanceGroup, ...] = ()


_MAX_PROBLEM_CHARS: Final = 300  # the parser quotes the whole line, however long, and then says why

# Message by message: field name to its type; `*` marks repeated, a capital another message.
_SCHEMA: Final = {
    "Reshape": {"shape": "*int64"},
    "Tensor": {"name": "string", "data_type": "enum", "dims": "*int64", "reshape": "Reshape"},
    "Latest": {"num_versions": "uint32"},
    "Specific": {"versions": "*int64"},
    "All": {},
    "Policy": {"latest": "Latest", "all": "All", "specific": "Specific"},
    "Parameter": {"string_value": "string"},
    "ParameterPair": {"key": "string", "value": "Parameter"},
    "InstanceGroup": {"count": "int32"},
    "Config": {
        "name": "string", "platform": "string", "backend": "string", "max_batch_size": "int32",
        "input": "*Tensor", "output": "*Tensor", "default_model_filename": "string",
        "version_policy": "Policy", "parameters": "*ParameterPair",
        "instance_group": "*InstanceGroup",
    },
}


def parse_text(text: str, source: str) -> Config:
    """Raises InvalidSpecification, with line and column, for what is no model configuration."""
    from google.protobuf import json_format, text_format

    message = _message_class()()
    try:
        text_format.Parse(text, message, allow_unknown_field=True)
        content = json_format.MessageToDict(message, preserving_proto_field_name=True)
        pairs = content.pop("parameters", [])
        content["parameters"] = {pair.get("key", ""): pair.get("value", {}) for pair in pairs}
        return msgspec.convert(content, Config, strict=False)  # int64 comes as text
    except text_format.ParseError as error:
        line, column = error.GetLine(), error.GetColumn()
        where = f", line {line}, column {column}" if line else ""
        problem = str(error).removeprefix(f"{line}:{column} : ").rstrip(".")[-_MAX_PROBLEM_CHARS:]
        raise InvalidSpecification(
            f"{source}{where}: {problem}; correct the text there"
        ) from error
    except (RecursionError, ValueError, json_format.Error) as error:
        raise InvalidSpecification(
            f"{source} is not the text of a model configuration: {error}"
        ) from error


@cache
def _message_class() -> type[Message]:
    """Built here, in a pool of its own, so that it meets neither generated code nor Triton's."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_type = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "string": field_type.TYPE_STRING, "int32": field_type.TYPE_INT32,
        "int64": field_type.TYPE_INT64, "uint32": field_type.TYPE_UINT32,
        "enum": field_type.TYPE_ENUM,
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="shoal/triton.proto", package="shoal.triton", syntax="proto3"
    )
    datatypes = file.enum_type.add(name="DataType")
    for number, name in enumerate(("TYPE_INVALID", *DATATYPES)):
        datatypes.value.add(name=name, number=number)
    for message_name, fields in _SCHEMA.items():
        message = file.message_type.add(name=message_name)
        for number, (field_name, kind) in enumerate(fields.items(), start=1):
            bare = kind.removeprefix("*")
            field = message.field.add(name=field_name, number=number)
            repeated = bare != kind
            field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            field.type = scalars.get(bare, field_type.TYPE_MESSAGE)
            if bare == "enum":
                field.type_name = ".shoal.triton.DataType"
            elif bare not in scalars:
                field.type_name = f".shoal.triton.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shoal.triton.Config"))
