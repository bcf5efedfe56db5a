"""Inference as users of the SDK see it: arrays, lists or a data frame in, arrays out.

Sans-IO: conversations that `retry.steps` carries out. Knows the shape of requests; their bytes are
the business of `codecs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypedDict, runtime_checkable

import orjson

from shoal.client.calls import (
    ModelMetadata,
    asked,
    model_metadata,
    model_path,
    predict_body,
    read_value,
)
from shoal.client.endpoints import Side
from shoal.client.errors import Answer, UnexpectedAnswer
from shoal.client.retry import Conversation, Exchange
from shoal.codecs.message import InferRequest, RequestedOutput, Tensor
from shoal.codecs.v2_client import HEADER_LENGTH, decode_response, encode_request, tensor_of
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.model import JsonValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# An array, or nested lists of numbers, booleans or text.
Values: TypeAlias = "NDArray[np.generic] | Sequence[object]"


@runtime_checkable
class Frame(Protocol):
    """As much of a pandas DataFrame as is needed, so that pandas need not be imported."""

    columns: Iterable[object]
    iloc: object

    def items(self) -> Iterable[tuple[object, Column]]: ...


class Column(Protocol):
    """As much of a pandas Series."""

    dtype: object

    def isna(self) -> NDArray[np.bool_]: ...

    def to_numpy(self, dtype: object = None, **options: object) -> NDArray[np.generic]: ...


Inputs: TypeAlias = "Mapping[str, Values] | Values | Frame"
Known: TypeAlias = "MutableMapping[tuple[str, int | str | None], ModelMetadata]"


class WishFields(TypedDict, total=False):
    """The fields of Wishes, and how long the call may take."""

    version: int | str | None
    outputs: Sequence[str]
    parameters: Mapping[str, JsonValue]
    id: str | None
    binary: bool
    repeatable: bool
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What may accompany the inputs.

    version: None means the server's choice. outputs: names wanted; empty: the model's default.
    parameters: handed to the model. id: comes back in the answer. binary: send and ask for tensors
    in the binary extension instead of JSON. repeatable: running it twice does no harm.
    """

    version: int | str | None = None
    outputs: Sequence[str] = ()
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    id: str | None = None
    binary: bool = True
    repeatable: bool = True

    @classmethod
    def of(cls, fields: WishFields) -> tuple[Wishes, float | None]:
        """Those said, the others at their defaults; and the time that was said."""
        wishes = {name: value for name, value in fields.items() if name != "timeout_s"}
        return cls(**wishes), fields.get("timeout_s")  # type: ignore[arg-type]  # as WishFields says


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a model answered. outputs: arrays by name, in the server's order; BYTES are object
    arrays of bytes, or of str where the server says that it is text."""

    model: str
    model_version: str
    outputs: dict[str, NDArray[np.generic]]
    id: str | None = None
    parameters: dict[str, JsonValue] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        try:
            return self.outputs[name]
        except KeyError:
            raise KeyError(f"no output {name!r}; there are {', '.join(self.outputs)}") from None

    @property
    def array(self) -> NDArray[np.generic]:
        """The only output. Raises ValueError when there are several."""
        if len(self.outputs) != 1:
            raise ValueError(
                f"model {self.model!r} answered {len(self.outputs)} outputs "
                f"({', '.join(self.outputs)}); choose one with result[name]"
            )
        return next(iter(self.outputs.values()))


def infer(model: str, inputs: Inputs, wishes: Wishes, known: Known) -> Conversation[Result]:
    """Ask for the metadata first where the inputs leave a name or a datatype open, and keep it in
    `known`.

    A server that refuses a request made from kept metadata is asked for it anew, once: the model
    may have been replaced meanwhile.
    """
    if isinstance(inputs, Frame) and not isinstance(inputs, Mapping):
        tensors = [_column(str(name), column) for name, column in inputs.items()]
        return (yield from _exchange(model, tensors, {"content_type": "pd"}, wishes))
    if not _is_open(inputs):
        return (yield from _exchange(model, _tensors(model, inputs, None), {}, wishes))
    key = (model, wishes.version)
    kept = known.get(key)
    if kept is not None:
        try:
            return (yield from _exchange(model, _tensors(model, inputs, kept), {}, wishes))
        except InvalidRequest:
            pass
    fresh = yield from asked(model_metadata(model, wishes.version))
    known[key] = fresh
    return (yield from _exchange(model, _tensors(model, inputs, fresh), {}, wishes))


def predict(
    model: str, instances: Values | Mapping[str, Values], *, repeatable: bool = True
) -> Conversation[list[JsonValue]]:
    """V1: `instances` are rows (lists, dicts or an array); a mapping of columns goes as
    `inputs`."""
    key = "inputs" if isinstance(instances, Mapping) else "instances"
    try:
        body = orjson.dumps({key: instances}, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise InvalidInput(f"model {model!r}: {key} cannot be written as JSON: {error}") from None
    answer = yield predict_body(model, body, repeatable=repeatable).exchange
    value = read_value(answer)
    predictions = value.get("predictions") if isinstance(value, dict) else None
    if not isinstance(predictions, list):
        raise UnexpectedAnswer(f"the answer of {answer.url} holds no list of predictions")
    return predictions


def _exchange(
    model: str, tensors: list[Tensor], parameters: dict[str, JsonValue], wishes: Wishes
) -> Conversation[Result]:
    request = InferRequest(
        inputs=tensors,
        id=wishes.id,
        parameters={**parameters, **wishes.parameters},
        outputs=[RequestedOutput(name) for name in wishes.outputs],
    )
    body, headers = encode_request(request, binary=wishes.binary)
    path = f"{model_path(model, wishes.version)}/infer"
    answer = yield Exchange("POST", Side.INFERENCE, path, body, headers, wishes.repeatable)
    return read_result(model, answer)


def read_result(model: str, answer: Answer) -> Result:
    """The answer to an inference, JSON or binary. Raises UnexpectedAnswer."""
    length = answer.headers.get(HEADER_LENGTH)
    try:
        response = decode_response(answer.body, None if length is None else int(length))
    except ValueError as error:  # msgspec's and Unicode's errors are ValueErrors too
        raise UnexpectedAnswer(
            f"the answer of {answer.url} cannot be read as a V2 response: {error}"
        ) from None
    return Result(
        response.model_name or model,
        response.model_version,
        {tensor.name: tensor.data for tensor in response.outputs},
        response.id,
        response.parameters,
    )


def _is_open(inputs: Mapping[str, Values] | Values) -> bool:
    """Whether the model's metadata must fill in a name or a datatype. Arrays have a datatype."""
    if not isinstance(inputs, Mapping):
        return True
    return any(not hasattr(values, "dtype") for values in inputs.values())


def _tensors(
    model: str, inputs: Mapping[str, Values] | Values, metadata: ModelMetadata | None
) -> list[Tensor]:
    declared = {} if metadata is None else {spec.name: spec for spec in metadata.inputs}
    if isinstance(inputs, Mapping):
        named = inputs
    else:
        if len(declared) != 1:
            names = ", ".join(repr(name) for name in declared)
            takes = f"takes {len(declared)} inputs ({names})" if names else "tells no inputs"
            raise InvalidInput(f"model {model!r} {takes}; give a dict of arrays by name")
        named = {next(iter(declared)): inputs}
    if not named:
        raise InvalidInput(f"model {model!r}: there are no inputs; give at least one")
    return [
        tensor_of(name, values, declared[name].datatype if name in declared else None)
        for name, values in named.items()
    ]


def _column(name: str, column: Column) -> Tensor:
    """One column as [rows, 1], as MLServer's PandasCodec writes it."""
    missing = bool(column.isna().any())
    kind = getattr(column.dtype, "kind", "O")
    if kind in "iufb" and not missing:
        values = column.to_numpy(dtype=getattr(column.dtype, "numpy_dtype", column.dtype))
    elif kind in "iuf":
        values = column.to_numpy(dtype="float64", na_value=float("nan"))
    elif kind in "Mm":
        raise InvalidInput(
            f"column {name!r} holds times ({column.dtype}); convert it to text first"
        )
    elif missing:
        raise InvalidInput(
            f"column {name!r} ({column.dtype}) has missing values, which only numeric columns can "
            "carry; fill them first"
        )
    else:
        values = column.to_numpy(dtype=object)
    tensor = tensor_of(name, _plain(values))
    tensor.shape, tensor.data = (len(values), 1), tensor.data.reshape(-1, 1)
    return tensor


def _plain(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Object arrays of numbers or booleans (mixed columns of pandas) as what they hold."""
    if values.dtype.kind != "O":
        return values
    import numpy as np

    elements = values.tolist()
    if elements and all(isinstance(element, bool | int | float) for element in elements):
        return np.asarray(elements)
    return values
