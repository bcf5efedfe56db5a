"""Messages of ModelMesh's `mmesh.ModelRuntime`, as bytes and with their fields.

The .proto file is in `protos`, in a pool of its own: in protobuf's default one other libraries of
the process may register the same names. Must not know how messages travel nor what they are for.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final, Protocol, cast

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

SERVICE: Final = "mmesh.ModelRuntime"
READY: Final = 1
FAILING: Final = 2

_POOL: Final = DescriptorPool()
for _file in FileDescriptorSet.FromString(
    (files("shoal.external") / "protos" / "descriptors.binpb").read_bytes()
).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


class Loaded(Protocol):
    sizeInBytes: int  # noqa: N815 - the protocol's name
    maxConcurrency: int  # noqa: N815


class Size(Protocol):
    sizeInBytes: int  # noqa: N815


class Status(Protocol):
    """status: STARTING (0), READY, FAILING."""

    status: int
    capacityInBytes: int  # noqa: N815
    maxLoadingConcurrency: int  # noqa: N815
    modelLoadingTimeoutMs: int  # noqa: N815
    defaultModelSizeInBytes: int  # noqa: N815
    runtimeVersion: str  # noqa: N815
    limitModelConcurrency: bool  # noqa: N815


@cache
def message_class(name: str) -> type[Message]:
    """By its name, such as `LoadModelRequest`."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"mmesh.{name}"))


def write(name: str, **values: object) -> bytes:
    """A message of these fields."""
    return message_class(name)(**values).SerializeToString()


def read_loaded(data: bytes) -> Loaded:
    """Raises protobuf's DecodeError, as the next two."""
    return cast(Loaded, message_class("LoadModelResponse").FromString(data))


def read_size(data: bytes) -> Size:
    """Of `predictModelSize` and `modelSize`, whose answers are alike."""
    return cast(Size, message_class("ModelSizeResponse").FromString(data))


def read_status(data: bytes) -> Status:
    return cast(Status, message_class("RuntimeStatusResponse").FromString(data))
