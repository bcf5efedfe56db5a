"""Reads MLServer's `model-settings.json`, so that its model folders can be served as they are.

Fields: https://mlserver.readthedocs.io/en/latest/reference/model-settings.html. What only tunes
MLServer is ignored. Looks at no artifact.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import JsonValue, ModelSpec
from shoal.domain.signature import TensorSpec
from shoal.storage.description import Description, read_text

FILE_NAME: Final = "model-settings.json"

# Format and the well-known file names of MLServer's own runtimes. Each class is importable from
# its package and from the module inside it; both spellings are in use.
_RUNTIMES: Final[dict[str, tuple[str | None, tuple[str, ...]]]] = {
    "mlserver_sklearn.SKLearnModel": ("sklearn", ("model.joblib", "model.pickle", "model.pkl")),
    "mlserver_xgboost.XGBoostModel": ("xgboost", ("model.bst", "model.json", "model.ubj")),
    "mlserver_lightgbm.LightGBMModel": ("lightgbm", ("model.bst", "model.txt")),
    "mlserver_catboost.CatboostModel": ("catboost", ("model.cbm", "model.bin")),
    # Recognised by what is in the folder: a framework's own file, or the folder as MLflow's.
    "mlserver_mlflow.MLflowRuntime": (None, ()),
    "mlserver_huggingface.HuggingFaceRuntime": ("huggingface", ()),
}
_NUMBER: Final = re.compile(r"v?([1-9][0-9]{0,17})")


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _Extra(msgspec.Struct):
    """What MLServer's Hugging Face runtime takes."""

    task: str | None = None
    pretrained_model: str | None = None


class _Parameters(msgspec.Struct):
    uri: str | None = None
    version: str | int | None = None
    extra: msgspec.Raw = msgspec.Raw(b"{}")


class _Settings(msgspec.Struct):
    name: str = ""
    implementation: str | None = None
    parameters: _Parameters | None = None
    inputs: tuple[_Tensor, ...] = ()
    outputs: tuple[_Tensor, ...] = ()


def read_model_settings(path: Path) -> Description:
    """Raises InvalidSpecification for anything but settings of a model that a format here serves,
    ArtifactMissing when `path` cannot be read."""
    return parse_model_settings(read_text(path), path)


def parse_model_settings(text: str, source: Path) -> Description:
    """As `read_model_settings`, from text.

    `parameters.version` gives the version where it is a whole number (`3`, `v3`); MLServer also
    takes any other text, which is served as version 1. `parameters.content_type` and
    `parameters.extra` steer MLServer's codecs and custom runtimes and mean nothing here, but for
    the task of a Hugging Face model.
    """
    try:
        settings = msgspec.json.decode(text, type=_Settings)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise InvalidSpecification(f"{source}: {error}; correct the JSON") from error
    form, usual = _format(settings.implementation, source)
    parameters = settings.parameters or _Parameters()
    number = _NUMBER.fullmatch(str(parameters.version))
    return Description(
        source=source,
        spec=ModelSpec(
            name=settings.name,
            uri=parameters.uri or "",
            format=form,
            options=_options(parameters, source) if form == "huggingface" else {},
            inputs=_specs(settings.inputs),
            outputs=_specs(settings.outputs),
        ),
        usual=usual,
        version=int(number.group(1)) if number else None,
    )


def _format(implementation: str | None, source: Path) -> tuple[str | None, tuple[str, ...]]:
    if implementation is None:
        return None, ()
    package, _, rest = implementation.partition(".")
    known = _RUNTIMES.get(f"{package}.{rest.rpartition('.')[2]}")
    if known is None or rest.count(".") > 1:
        raise InvalidSpecification(
            f"{source}: the implementation {implementation!r} has no counterpart here; known are "
            f"{', '.join(_RUNTIMES)}; leave it out to have the format recognised from the files, "
            "or write the model as a Python class in model.py"
        )
    return known


def _options(parameters: _Parameters, source: Path) -> dict[str, JsonValue]:
    try:
        extra = msgspec.json.decode(parameters.extra, type=_Extra)
    except msgspec.MsgspecError as error:
        raise InvalidSpecification(f"{source}: parameters.extra: {error}; correct it") from error
    if extra.pretrained_model and not parameters.uri:
        raise InvalidSpecification(
            f"{source}: the model is named as {extra.pretrained_model!r}, and nothing is fetched "
            "for a folder; set parameters.uri to a folder with its files, or register it with the "
            f"uri hf://{extra.pretrained_model}"
        )
    return {"task": extra.task} if extra.task else {}


def _specs(tensors: tuple[_Tensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)
