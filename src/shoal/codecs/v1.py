"""KServe's V1 protocol, after TensorFlow Serving: JSON rows or columns to tensors and back.

A V1 request names no datatypes and perhaps no inputs, so it becomes tensors only with the model's
signature in hand. Whether those tensors suit the model is for `dataplane.validation` to say.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import orjson

from shoal.codecs import json_errors, tensors
from shoal.codecs.message import InferRequest, InferResponse, Tensor
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from shoal.codecs.tensors import Array


class V1Request(msgspec.Struct):
    """One of `instances` (a list, a row each) and `inputs` (column form) is set.

    signature_name: TensorFlow Serving's; models here have one signature, so it is not used.
    """

    instances: list[object] | msgspec.UnsetType = msgspec.UNSET
    inputs: list[object] | dict[str, object] | msgspec.UnsetType = msgspec.UNSET
    signature_name: str | None = None


_REQUEST: Final = msgspec.json.Decoder(V1Request)


def decode(body: bytes | memoryview) -> V1Request:
    """Raises InvalidRequest for what is not JSON or not a V1 request."""
    try:
        request = _REQUEST.decode(body)
    except json_errors.DECODING_ERRORS as error:
        raise json_errors.as_refusal(error, body) from None
    fields = {"instances": request.instances, "inputs": request.inputs}
    given = [name for name, value in fields.items() if value is not msgspec.UNSET]
    if len(given) != 1:
        raise InvalidRequest(
            "a V1 request has either 'instances' (a list of rows) or 'inputs' (columns); "
            f"this one has {'both' if given else 'neither'}"
        )
    if not fields[given[0]]:
        raise InvalidRequest(f"'{given[0]}' is empty; give at least one row")
    return request


def to_request(request: V1Request, signature: Signature) -> InferRequest:
    """The tensors of `request`, with the names, datatypes and number of axes of `signature`.

    A row is an object of input name to value, or the value itself where the model has one input
    (of a table: the list of its columns' values, in order). `inputs` is an object of input name to
    batch, or rows as in `instances`. Raises InvalidInput for values that cannot become the
    declared datatype, ragged lists, missing and unknown names.
    """
    specs = signature.inputs
    if not specs:
        raise InvalidInput(
            "the model declares no inputs, so the V1 protocol, which names no datatypes, cannot "
            "reach it; use V2, or declare its inputs"
        )
    if isinstance(request.inputs, dict):
        columns = dict(request.inputs)
        _check_names(columns, signature, "'inputs'")
    else:
        rows = request.instances if request.instances is not msgspec.UNSET else request.inputs
        assert isinstance(rows, list)
        first = rows[0]
        required = [spec for spec in specs if spec.name not in signature.optional] or specs
        if isinstance(first, dict) and not _is_base64(first, specs):
            columns = _columns_of_objects(rows, signature)
        elif signature.table:
            columns = _columns_of_lists(rows, specs)
        elif len(required) == 1:
            columns = {required[0].name: rows}
        else:
            raise InvalidInput(
                f"the model has {len(specs)} inputs, so each row must be an object with the names "
                f"{_names(specs)}"
            )
    by_name = {spec.name: spec for spec in specs}
    return InferRequest(
        [
            _tensor(name, values, by_name.get(name, specs[0]), signature)
            for name, values in columns.items()
        ]
    )


def _is_base64(row: dict[str, object], specs: Sequence[TensorSpec]) -> bool:
    """Is this object a value, not a row? {"b64": "…"} where the one input takes bytes is."""
    return row.keys() == {"b64"} and len(specs) == 1 and specs[0].datatype == "BYTES"


def _columns_of_objects(rows: Sequence[object], signature: Signature) -> dict[str, object]:
    columns: dict[str, list[object]] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidInput(f"row {index} is no object, but row 0 is; write all rows alike")
        if index == 0:
            _check_names(row, signature, "row 0")
            columns = {name: [] for name in row}
        elif row.keys() != columns.keys():
            _check_names(row, signature, f"row {index}")
            raise InvalidInput(f"row {index} has other names than row 0; write all rows alike")
        for name, values in columns.items():
            values.append(row[name])
    return dict(columns)


def _columns_of_lists(rows: Sequence[object], specs: Sequence[TensorSpec]) -> dict[str, object]:
    columns: list[list[object]] = [[] for _ in specs]
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(specs):
            came = f"has {len(row)} values" if isinstance(row, list) else "is no list"
            raise InvalidInput(
                f"row {index} {came}; a row is an object with the columns {_names(specs)}, or the "
                "list of their values in this order"
            )
        for values, value in zip(columns, row, strict=True):
            values.append(value)
    return {spec.name: values for spec, values in zip(specs, columns, strict=True)}


def _check_names(given: Mapping[str, object], signature: Signature, where: str) -> None:
    """Raise InvalidInput unless the names are those of the signature (any one, if it says so)."""
    if signature.any_name and len(given) == 1:
        return
    known = {spec.name for spec in signature.inputs}
    missing = [spec.name for spec in signature.inputs
               if spec.name not in given and spec.name not in signature.optional]
    unknown = [name for name in given if name not in known]
    if missing or unknown:
        kind = "columns" if signature.table else "inputs"
        faults = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
        faults += [f"has the unknown {', '.join(map(repr, unknown))}"] if unknown else []
        raise InvalidInput(
            f"{where} {' and '.join(faults)}; the model's {kind} are {_names(signature.inputs)}"
        )


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)


def _tensor(name: str, values: object, spec: TensorSpec, signature: Signature) -> Tensor:
    """`values` has one axis more than a row's value. A column of shape [n, 1] may come as [n]."""
    nesting = _nesting(values)
    column = False
    if signature.guessed:
        depth = nesting
    elif signature.table:
        depth = 1 if nesting < 2 else 2
    else:
        depth = len(spec.shape)
        column = nesting == 1 and depth == 2 and spec.shape[1] == 1
    data: Array = tensors.from_values(
        name, spec.datatype, values, 1 if column else depth, base64=True
    )
    if column:
        data = data.reshape(-1, 1)
    return Tensor(name, spec.datatype, data.shape, data)


def _nesting(values: object) -> int:
    """How many lists deep the first element lies."""
    depth = 0
    while isinstance(values, list) and depth < tensors.MAX_RANK:
        depth += 1
        values = values[0] if values else None
    return depth


# --- responses ----------------------------------------------------------------------------------


def encode_response(response: InferResponse) -> bytes:
    """`{"predictions": …}`, to `instances` and `inputs` alike, as KServe's servers answer.

    One output: its rows. Several with equal first axes: a list of objects, one a row. Several
    others: an object of output name to values. BYTES are strings, or `{"b64": "…"}` where they are
    not UTF-8; NaN and Infinity become null.
    """
    outputs = {tensor.name: _values(tensor) for tensor in response.outputs}
    predictions: object
    if len(outputs) == 1:
        (predictions,) = outputs.values()
    else:
        extents = {tensor.shape[:1] for tensor in response.outputs}
        if len(extents) == 1 and extents != {()}:
            ((count,),) = extents
            columns = [(name, _elements(values)) for name, values in outputs.items()]
            predictions = [{name: values[row] for name, values in columns} for row in range(count)]
        else:
            predictions = outputs
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _values(tensor: Tensor) -> list[object] | Array:
    """Something orjson writes as nested lists; `values[row]` is a row."""
    data = tensor.data
    if tensor.datatype == "BYTES":
        elements: list[bytes] = data.ravel().tolist()
        texts = tensors.object_array([_text(element) for element in elements], data.shape)
        nested: list[object] = texts.tolist()
        return nested
    if tensor.datatype == "BF16":
        data = tensors.widen(data)
    return data.tolist() if data.ndim == 0 else np.ascontiguousarray(data)


def _elements(values: list[object] | Array) -> list[object] | Array:
    """`values` such that orjson writes each `values[row]`: of integers, numpy has scalars that it
    does not know (`longlong`, which ONNX Runtime gives)."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        elements: list[object] = values.tolist()
        return elements
    return values


def _text(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(element).decode()}
