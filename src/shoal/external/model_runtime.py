"""ModelMesh's gRPC service `mmesh.ModelRuntime`, as its caller keeps to it.

Source: ModelMesh, `model-runtime.proto`: `runtimeStatus` is asked until READY, which unloads all;
sizes need not be implemented. `modelKey` is the JSON that modelmesh-serving writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from shoal.external import messages
from shoal.external.interface import (
    QUICK_S,
    CallFailed,
    Line,
    Reported,
    ServerFailed,
    Told,
    ToLoad,
)

_PATH: Final = f"/{messages.SERVICE}/"


class ModelRuntime:
    """See `Interface`. folder: for the files that say what models take and give."""

    def __init__(self, line: Line, folder: Path) -> None:
        self._line = line
        self._folder = folder
        self._limits_concurrency = False

    def status(self) -> Reported | None:
        data = self._ask("runtimeStatus", messages.write("RuntimeStatusRequest"), QUICK_S)
        try:
            status = messages.read_status(data)
        except DecodeError:
            raise ServerFailed("answers runtimeStatus with what is no such message") from None
        if status.status == messages.FAILING:
            raise ServerFailed("says that it is failing (runtimeStatus)")
        if status.status != messages.READY:
            return None
        self._limits_concurrency = status.limitModelConcurrency
        return Reported(
            capacity_bytes=status.capacityInBytes or None,
            max_loading=status.maxLoadingConcurrency or None,
            load_timeout_s=status.modelLoadingTimeoutMs / 1e3 or None,
            default_bytes=status.defaultModelSizeInBytes or None,
        )

    def predict_bytes(self, model: ToLoad) -> int | None:
        return self._size("predictModelSize", messages.write(
            "PredictModelSizeRequest", **self._described(model)))

    def load(self, model: ToLoad, timeout_s: float) -> Told:
        request = messages.write("LoadModelRequest", **self._described(model))
        data = self._line.ask_revocably(f"{_PATH}loadModel", request, timeout_s)
        try:
            loaded = messages.read_loaded(data)
        except DecodeError:
            raise CallFailed("INTERNAL", "its answer is no LoadModelResponse") from None
        size_bytes = loaded.sizeInBytes or self._size(
            "modelSize", messages.write("ModelSizeRequest", modelId=model.id))
        most = loaded.maxConcurrency if self._limits_concurrency else 0
        return Told(size_bytes, most or None)

    def unload(self, model: str, timeout_s: float) -> None:
        self._schema(model).unlink(missing_ok=True)
        self._ask("unloadModel", messages.write("UnloadModelRequest", modelId=model), timeout_s)

    def _ask(self, method: str, request: bytes, timeout_s: float) -> bytes:
        return self._line.ask(_PATH + method, request, timeout_s)

    def _size(self, method: str, request: bytes) -> int | None:
        """A server that does not know, or fails at it, is none the worse for it."""
        try:
            return messages.read_size(self._ask(method, request, QUICK_S)).sizeInBytes or None
        except (CallFailed, DecodeError):
            return None

    def _described(self, model: ToLoad) -> dict[str, str]:
        kind = {"name": model.format}
        if model.format_version is not None:
            kind["version"] = model.format_version
        key: dict[str, object] = {"model_type": kind, "disk_size_bytes": model.files_bytes}
        artifact = model.artifact
        if artifact.inputs or artifact.outputs:
            schema = self._schema(model.id)
            schema.write_bytes(msgspec.json.encode({
                "inputs": artifact.inputs, "outputs": artifact.outputs}))
            key["schema_path"] = str(schema)
        if model.options:
            key["options"] = model.options
        return {
            "modelId": model.id, "modelType": model.format, "modelPath": str(model.path),
            "modelKey": msgspec.json.encode(key).decode(),
        }

    def _schema(self, model: str) -> Path:
        return self._folder / f"{model}.schema.json"
