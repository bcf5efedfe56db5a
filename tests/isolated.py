"""Models in processes of their own, without a server; and packages for pip to install."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

from shoal.domain.model import ModelSpec, Revision, make_revision
from shoal.isolation.model import IsolatedModel, Isolation, IsolationOptions
from shoal.ports import Artifact
from shoal.runtimes.registry import RuntimeRegistry

REGISTRY = RuntimeRegistry.installed()

OPTIONS = IsolationOptions(
    environments=Path("/nonexistent"), most_environments=4, memory_factor=4.0,
    loading_bytes=1024**3, start_timeout_s=60.0, call_timeout_s=30.0, niceness=0,
)

ECHO = """
    def predict(self, inputs, parameters):
        return dict(inputs)
"""


def model_folder(folder: Path, body: str = ECHO, *, head: str = "", requirements: str | None = None
                 ) -> Path:
    """A Python model. body: of its class; head: before it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(
        f"import os, sys, time\nimport numpy as np\n{head}\nclass Model:\n{body}")
    if requirements is not None:
        (folder / "requirements.txt").write_text(requirements)
    return folder


def isolated(artifact: Artifact, options: IsolationOptions = OPTIONS, **told: int
             ) -> IsolatedModel:
    """told: of the model's declaration."""
    return Isolation(options).load(
        REGISTRY.get(artifact.format), artifact, revision_of(artifact, **told))


def revision_of(artifact: Artifact, **told: int) -> Revision:
    spec = ModelSpec(
        name=artifact.model, uri=str(artifact.path), memory_bytes=told.get("memory_bytes"),
        max_concurrency=told.get("max_concurrency"))
    return make_revision(
        spec, version=1, uri=spec.uri, format=artifact.format, artifact_digest="sha256:0",
        files_bytes=1)


def python_model(folder: Path, options: IsolationOptions = OPTIONS, **told: int) -> IsolatedModel:
    return isolated(Artifact("m", 1, folder, "python"), options, **told)


def with_environments(folder: Path, most: int = 4) -> IsolationOptions:
    return replace(OPTIONS, environments=folder, most_environments=most)


def make_wheel(folder: Path, name: str, version: str) -> None:
    """A package that knows its version."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{about}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
