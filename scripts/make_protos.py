"""Writes `descriptors.binpb` beside the .proto files: what the server reads of them.

    python scripts/make_protos.py

Needs grpcio-tools (an extra of the tests). A test compares the file with the texts, so it cannot be
forgotten.
"""

from __future__ import annotations

import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

PROTOS: Final = Path(__file__).parent.parent / "src" / "shoal" / "codecs" / "protos"
DESCRIPTORS: Final = PROTOS / "descriptors.binpb"


def compiled() -> bytes:
    """The descriptor set of all .proto files, what is imported before what imports it."""
    names = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        status = protoc.main([
            "protoc", f"--proto_path={PROTOS}", f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={out}", *names,
        ])
        if status != 0:
            raise SystemExit(f"protoc refused the files of {PROTOS}")
        described = FileDescriptorSet.FromString(out.read_bytes())
    for file in described.file:  # as ours: other compilers might add what they like
        file.ClearField("source_code_info")
    return described.SerializeToString(deterministic=True)


def main() -> None:
    DESCRIPTORS.write_bytes(compiled())


if __name__ == "__main__":
    main()
