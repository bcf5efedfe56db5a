"""Model servers of other people for tests, and what is loaded into them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

import psutil
from tests.conftest import ROOT

from shoal.domain.model import ModelSpec, Revision, make_revision
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.domain.signature import TensorSpec
from shoal.external.model import ExternalModel
from shoal.external.options import ExternalOptions
from shoal.external.servers import ExternalServers
from shoal.ports import Artifact
from shoal.storage.digest import read_content

TRICKS: Final = ROOT / "tests" / "external_server.py"
EXAMPLE: Final = ROOT / "examples" / "model_runtime_server.py"
INPUTS: Final = (TensorSpec("x", "FP32", (-1, 2)),)
OUTPUTS: Final = (TensorSpec("y", "FP32", (-1,)),)
# What they need of this environment, which they are not given with the rest.
PATHS: Final = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}


def external(folder: Path, *, hang_s: float = 30.0, watch_s: float = 0.05) -> ExternalServers:
    return ExternalServers(ExternalOptions(
        folder=lambda: folder, instance=f"the instance of {folder.name}", hang_s=hang_s,
        watch_s=watch_s))


def tricks(name: str, notes: Path, **variables: str) -> ServingRuntime:
    """The example's server with tricks, to be started."""
    return ServingRuntime(
        name=name, formats=(SupportedFormat("linear", "1"),), interface="model-runtime",
        command=(sys.executable, str(TRICKS), "127.0.0.1:{grpc_port}"),
        environment={**PATHS, "NOTES": str(notes), **variables})


def linear(folder: Path, name: str = "m", **said: object) -> Revision:
    """A model's file with weights, and what else it says."""
    path = folder / f"{name}.linear"
    path.write_text(json.dumps({"weights": [2, 3], **said}))
    return revision_of(path, "linear", name)


def revision_of(path: Path, form: str, name: str = "m", **spec: object) -> Revision:
    content = read_content(path)
    return make_revision(
        ModelSpec(name=name, uri=str(path), **spec),  # type: ignore[arg-type]
        version=1, uri=str(path), format=form, artifact_digest=content.digest,
        files_bytes=content.files_bytes)


def load(servers: ExternalServers, serving: ServingRuntime, revision: Revision) -> ExternalModel:
    return servers.load(serving, Artifact(
        model=revision.model, version=revision.version, path=Path(revision.uri),
        format=revision.format, inputs=revision.inputs, outputs=revision.outputs,
        options=revision.options), revision)


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
