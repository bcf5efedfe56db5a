"""Makes MLServer's model repository out of artifacts: a folder a model, with `model-settings.json`.

An artifact that brings that file itself is taken as it is, but for its name. Must not know when
models are loaded.

Source: MLServer, "model-settings.json", "settings.json", and its runtimes' pages.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import msgspec

from shoal.domain.errors import InvalidArtifact, InvalidSpecification
from shoal.domain.model import JsonValue
from shoal.external.interface import ToLoad

MODEL_SETTINGS: Final = "model-settings.json"
OPTIONS: Final = ("implementation", "parameters")

_SETTINGS: Final = "settings.json"
_IMPLEMENTATIONS: Final = {
    "sklearn": "mlserver_sklearn.SKLearnModel",
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "catboost": "mlserver_catboost.CatboostModel",
    "mlflow": "mlserver_mlflow.MLflowRuntime",
    "huggingface": "mlserver_huggingface.HuggingFaceRuntime",
}


class MlserverLayout:
    """See `Layout`. models: the repository's folder."""

    def __init__(self, models: Path) -> None:
        self._models = models

    def add(self, model: ToLoad) -> None:
        settings = _settings(model)
        folder = self._models / model.id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_SETTINGS).write_bytes(msgspec.json.encode(settings))

    def remove(self, model: str) -> None:
        shutil.rmtree(self._models / model, ignore_errors=True)


def write_server_settings(models: Path, ports: dict[str, int]) -> None:
    """What `mlserver start <models>` reads: only this machine reaches it, on these ports
    (`grpc_port`, `http_port`, `metrics_port`), and it begins without models."""
    (models / _SETTINGS).write_bytes(msgspec.json.encode({
        "host": "127.0.0.1", **ports, "load_models_at_startup": False, "debug": False,
        # Models of one instance are many and small: a process more for them would cost more than
        # it gives. The environment says otherwise: MLSERVER_PARALLEL_WORKERS.
        "parallel_workers": 0,
    }))


def is_mlserver_folder(path: Path) -> bool:
    """Does it say itself which class loads it?"""
    return (path / MODEL_SETTINGS).is_file()


def _settings(model: ToLoad) -> dict[str, object]:
    options = model.options
    unknown = ", ".join(sorted(set(options) - set(OPTIONS)))
    if unknown:
        raise InvalidSpecification(
            f"unknown options {unknown}; a runtime that serves as MLServer does takes "
            f"{' and '.join(repr(option) for option in OPTIONS)}, as in a {MODEL_SETTINGS}")
    given = _own(model.path) if is_mlserver_folder(model.path) else {}
    parameters = given.get("parameters")
    own = dict(parameters) if isinstance(parameters, dict) else {}
    said = options.get("parameters")
    if said is not None and not isinstance(said, dict):
        raise InvalidSpecification(
            f"the option 'parameters' must be an object, as in a {MODEL_SETTINGS}")
    uri = own.get("uri")
    place = model.path / uri if isinstance(uri, str) and given else model.path
    artifact = model.artifact
    settings: dict[str, object] = {
        "inputs": artifact.inputs, "outputs": artifact.outputs, **given,
        "name": model.id,
        "parameters": {**own, **(said or {}), "uri": str(place.absolute()), "version": None},
    }
    implementation = options.get("implementation") or given.get("implementation")
    settings["implementation"] = implementation or _implementation(model)
    return settings


def _implementation(model: ToLoad) -> str:
    try:
        return _IMPLEMENTATIONS[model.format]
    except KeyError:
        raise InvalidArtifact(
            f"{model.path.name}: it is not known which class of MLServer loads the format "
            f"{model.format!r}; known are {', '.join(_IMPLEMENTATIONS)}: name it with the option "
            "'implementation'") from None


def _own(folder: Path) -> dict[str, JsonValue]:
    file = folder / MODEL_SETTINGS
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, JsonValue])
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidArtifact(f"{file}: it cannot be read: {error}") from None
