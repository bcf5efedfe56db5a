"""The .proto files: their descriptors, and that nobody else's in the process get in the way."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import msgspec
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from tests.conftest import ROOT
from tritonclient.grpc import model_config_pb2, service_pb2

from shoal.codecs import protobuf
from shoal.domain.errors import InvalidRequest


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_protos", ROOT / "scripts/make_protos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_descriptors_are_those_of_the_texts() -> None:
    made = script()
    for folder in made.FOLDERS:
        written = (folder / made.DESCRIPTORS).read_bytes()
        assert written == made.compiled(folder), "run scripts/make_protos.py"


def test_fields_have_the_numbers_that_triton_gives_them() -> None:
    """In one process with Triton's, which have the same names."""
    ours: dict[str, DescriptorProto] = {}
    for name in ("open_inference.proto", "model_config.proto"):
        files = protobuf.file_named(name)
        assert files is not None
        file = FileDescriptorProto.FromString(files[0])
        ours |= {each.name: each for each in file.message_type}
    theirs = {
        **service_pb2.DESCRIPTOR.message_types_by_name,
        **model_config_pb2.DESCRIPTOR.message_types_by_name,
    }
    for name, kind in ours.items():
        if name in ("RepositoryModelLoadResponse", "RepositoryModelUnloadResponse"):
            continue  # KServe's fields
        for field in kind.field:
            their = theirs[name].fields_by_name[field.name]
            assert (field.number, field.type) == (their.number, their.type), f"{name}.{field.name}"


def test_services_are_found_by_their_symbols() -> None:
    assert "inference.GRPCInferenceService" in protobuf.SERVICES
    for symbol in ("inference.GRPCInferenceService", "inference.GRPCInferenceService.ModelInfer",
                   "inference.ModelInferRequest.InferInputTensor", "inference.DataType",
                   "grpc.health.v1.HealthCheckResponse.ServingStatus"):
        assert protobuf.file_of_symbol(symbol), symbol
    assert protobuf.file_of_symbol("inference.Nope") is None
    files = protobuf.file_named("open_inference.proto")
    assert files is not None
    assert len(files) == 2
    assert protobuf.file_named("nope.proto") is None


class Asked(msgspec.Struct):
    name: str = ""
    version: str = ""


def test_messages_become_values_and_values_messages() -> None:
    data = protobuf.write("inference.ModelReadyRequest", {"name": "m"})
    assert data == b"\x0a\x01m"
    assert protobuf.read("inference.ModelReadyRequest", data, Asked) == Asked("m")
    with pytest.raises(InvalidRequest, match="not a valid ModelReadyRequest message"):
        protobuf.read("inference.ModelReadyRequest", b"\x0a\xff", Asked)
