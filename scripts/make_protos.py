"""Writes `descriptors.binpb` beside the .proto files: what the server reads of them.

    python scripts/make_protos.py

Needs grpcio-tools (an extra of the tests). A test compares the files with the texts, so it cannot
be forgotten.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet

_PACKAGE: Final = Path(__file__).parent.parent / "src" / "shoal"
FOLDERS: Final = tuple(_PACKAGE / name / "protos" for name in ("codecs", "stores", "external"))
DESCRIPTORS: Final = "descriptors.binpb"


def compiled(protos: Path) -> bytes:
    """The descriptor set of all .proto files in a folder, what is imported before what imports
    it."""
    names = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        # In a process of its own: it brings a protobuf library that others do not get on with.
        ended = subprocess.run([
            sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={protos}",
            f"--proto_path={files('grpc_tools') / '_proto'}", f"--descriptor_set_out={out}", *names,
        ], check=False)
        if ended.returncode != 0:
            raise SystemExit(f"protoc refused the files of {protos}")
        described = FileDescriptorSet.FromString(out.read_bytes())
    for file in described.file:  # as ours: other compilers might add what they like
        file.ClearField("source_code_info")
    return described.SerializeToString(deterministic=True)


def main() -> None:
    for folder in FOLDERS:
        (folder / DESCRIPTORS).write_bytes(compiled(folder))


if __name__ == "__main__":
    main()
