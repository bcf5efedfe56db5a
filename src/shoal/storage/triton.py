"""Reads Triton's `config.pbtxt`, so that its model repositories can be served as they are.

Fields: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto.
What only tunes Triton is ignored; what would change answers and is not supported is refused.
Looks at no artifact.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import JsonValue, ModelSpec, VersionPolicy
from shoal.domain.signature import TensorSpec
from shoal.storage.description import Description, read_text
from shoal.storage.triton_text import DATATYPES, Config, Tensor, parse_text

FILE_NAME: Final = "config.pbtxt"

# By `backend`, and by the older `platform`.
_FORMATS: Final = {
    "onnxruntime": "onnx",
    "onnxruntime_onnx": "onnx",
    "pytorch": "pytorch",
    "pytorch_libtorch": "pytorch",
    "openvino": "openvino",
    "tensorflow": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "python": "python",
    "tensorrt": "tensorrt",  # of serving runtimes alone
    "tensorrt_plan": "tensorrt",
}
_USUAL: Final = {
    "onnx": ("model.onnx",),
    "pytorch": ("model.pt",),
    "openvino": ("model.xml",),
    "tensorflow": ("model.savedmodel", "model.graphdef"),
    "python": ("model.py",),
    "tensorrt": ("model.plan",),
}

# Of the forest inference library's parameter `model_type`: the format and the usual file name.
_FOREST: Final = {
    "xgboost": ("xgboost", "xgboost.model"),
    "xgboost_json": ("xgboost", "xgboost.json"),
    "xgboost_ubj": ("xgboost", "xgboost.ubj"),
    "lightgbm": ("lightgbm", "model.txt"),
}


def read_config(path: Path) -> Description:
    """Raises InvalidSpecification for text that is no model configuration or asks for what this
    release cannot do, ArtifactMissing when `path` cannot be read."""
    return parse_config(read_text(path), path)


def parse_config(text: str, source: Path) -> Description:
    """As `read_config`, from text."""
    config = parse_text(text, str(source))
    form, usual = _format(config, source)
    return Description(
        source=source,
        spec=ModelSpec(
            name=config.name,
            uri="",
            format=form,
            version_policy=_version_policy(config),
            inputs=tuple(_tensor(each, "input", config, source) for each in config.input),
            outputs=tuple(_tensor(each, "output", config, source) for each in config.output),
            options=_options(config, form),
            max_concurrency=sum(max(group.count, 1) for group in config.instance_group) or None,
            # A class is Shoal's own, whatever Triton would do with it, and says so itself.
            max_batch_rows=(max(config.max_batch_size, 0) if form != "python" else 0) or None,
        ),
        filename=_filename(config.default_model_filename, source),
        usual=usual,
    )


def _format(config: Config, source: Path) -> tuple[str | None, tuple[str, ...]]:
    named = config.backend or config.platform
    if not named:
        return None, ()
    if named == "fil":
        return _forest(config, source)
    form = _FORMATS.get(named)
    if form is None:
        field = "backend" if config.backend else "platform"
        raise InvalidSpecification(
            f"{source}: this release has no runtime for {field} {named!r}; known are "
            f"{', '.join(_FORMATS)} and fil"
        )
    return form, _USUAL[form]


def _forest(config: Config, source: Path) -> tuple[str, tuple[str, ...]]:
    parameters = _parameters(config)
    for name in ("output_class", "predict_proba"):
        if parameters.get(name, "").lower() == "true":
            raise InvalidSpecification(
                f"{source}: the parameter {name!r} of backend 'fil' is not supported; leave it "
                "out, and take the class from the scores on the client's side"
            )
    kind = parameters.get("model_type", "xgboost")
    if kind not in _FOREST:
        raise InvalidSpecification(
            f"{source}: this release has no runtime for model_type {kind!r} of backend 'fil'; "
            f"known are {', '.join(_FOREST)}"
        )
    form, file_name = _FOREST[kind]
    return form, (file_name,)


def _parameters(config: Config) -> dict[str, str]:
    return {each.key: each.value.string_value for each in config.parameters}


def _options(config: Config, form: str | None) -> dict[str, JsonValue]:
    """A Python model reads its parameters itself; those of other backends tune Triton."""
    return {**_parameters(config)} if form == "python" else {}


def _version_policy(config: Config) -> VersionPolicy:
    """Triton serves the latest version alone unless told otherwise."""
    policy = config.version_policy
    if policy is not None and policy.specific is not None:
        return VersionPolicy(specific=policy.specific.versions)
    if policy is not None and policy.all is not None:
        return VersionPolicy()
    latest = policy.latest.num_versions if policy is not None and policy.latest else 1
    return VersionPolicy(latest=max(latest, 1))


def _filename(name: str, source: Path) -> str | None:
    if not name:
        return None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InvalidSpecification(
            f"{source}: default_model_filename {name!r} leads out of the version folder; "
            "name a file inside it"
        )
    return name


def _tensor(tensor: Tensor, kind: str, config: Config, source: Path) -> TensorSpec:
    """Dimensions as clients see them: with a leading batch axis where the model takes batches."""
    named = f"{source}: {kind} {tensor.name!r}"
    if not tensor.name:
        raise InvalidSpecification(f"{source}: an {kind} has no name; give it one")
    datatype = DATATYPES.get(tensor.data_type)
    if datatype is None:
        raise InvalidSpecification(
            f"{named} has no known data_type; set one of {', '.join(DATATYPES)}"
        )
    if tensor.reshape is not None and tensor.reshape.shape != tensor.dims:
        raise InvalidSpecification(
            f"{named} asks for a reshape, which this release does not do; export the model with "
            "the shape that clients send, and remove 'reshape'"
        )
    for extent in tensor.dims:
        if extent < -1 or extent == 0:
            raise InvalidSpecification(
                f"{named} has the dims {list(tensor.dims)}; each must be positive, or -1 for any"
            )
    batch = (-1,) if config.max_batch_size > 0 else ()
    return TensorSpec(tensor.name, datatype, (*batch, *tensor.dims))
