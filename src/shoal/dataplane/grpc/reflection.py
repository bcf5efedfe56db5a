"""gRPC's server reflection: what is served, for tools such as grpcurl.

Source: grpc/doc/server-reflection.md. Versions v1 and v1alpha differ in name only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import msgspec

from shoal.codecs import protobuf
from shoal.dataplane.grpc import statuses
from shoal.dataplane.grpc.message import Code, Reply, Stream

_NONE_OF_THESE: Final = (
    "one of file_by_filename, file_containing_symbol and list_services is served"
)


class _Request(msgspec.Struct):
    host: str = ""
    file_by_filename: str | None = None
    file_containing_symbol: str | None = None
    file_containing_extension: dict[str, object] | None = None
    all_extension_numbers_of_type: str | None = None
    list_services: str | None = None


class ReflectionV1:
    """`grpc.reflection.v1.ServerReflection`."""

    PACKAGE: ClassVar[str] = "grpc.reflection.v1"
    PATH: ClassVar[str] = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

    async def handle(self, stream: Stream) -> Reply:
        """Answers each message of the stream in turn."""
        while (message := await stream.receive()) is not None:
            name = f"{self.PACKAGE}.ServerReflectionRequest"
            asked = protobuf.read(name, message, _Request)
            given = msgspec.structs.asdict(asked).items()
            answer = {
                "valid_host": asked.host,
                "original_request": {key: value for key, value in given if value is not None},
                **_answer(asked),
            }
            await stream.send([protobuf.write(f"{self.PACKAGE}.ServerReflectionResponse", answer)])
        return statuses.shutting_down() if stream.draining else Reply()


class ReflectionV1Alpha(ReflectionV1):
    """The same under the name that older tools ask for."""

    PACKAGE = "grpc.reflection.v1alpha"
    PATH = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def _answer(asked: _Request) -> Mapping[str, object]:
    if asked.list_services is not None:
        return {"list_services_response": {
            "service": [{"name": name} for name in protobuf.SERVICES]
        }}
    if asked.file_by_filename is not None:
        found, wanted = protobuf.file_named(asked.file_by_filename), asked.file_by_filename
    elif asked.file_containing_symbol is not None:
        found, wanted = (
            protobuf.file_of_symbol(asked.file_containing_symbol), asked.file_containing_symbol
        )
    elif asked.file_containing_extension is not None or asked.all_extension_numbers_of_type:
        return _error(Code.NOT_FOUND, "there are no extensions")
    else:
        return _error(Code.INVALID_ARGUMENT, _NONE_OF_THESE)
    if found is None:
        return _error(Code.NOT_FOUND, f"{wanted!r} is not served")
    return {"file_descriptor_response": {
        "file_descriptor_proto": [protobuf.as_json(each) for each in found]
    }}


def _error(code: Code, message: str) -> Mapping[str, object]:
    return {"error_response": {"error_code": int(code), "error_message": message}}
