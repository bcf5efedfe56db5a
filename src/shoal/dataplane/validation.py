"""Decides whether a request suits a model, and whether a model gave what it promised.

Between a request's tensors and the arrays of `LoadedModel.predict`, both ways. Knows signatures,
no protocol's bytes and no copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from shoal.codecs import tables, tensors
from shoal.codecs.message import InferRequest, InferResponse, Tensor
from shoal.domain.errors import InvalidInput, ModelFailed
from shoal.domain.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from shoal.codecs.tensors import Array
    from shoal.ports import Arrays


class RequestCheck:
    """Checks requests against one signature; made once for each loaded copy.

    A signature without inputs (or outputs) declares nothing about them, so any pass. Of guessed
    inputs only the names are checked.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._only = signature.inputs[0] if len(signature.inputs) == 1 else None
        self._default_outputs = signature.default_outputs or tuple(
            spec.name for spec in signature.outputs
        )
        self._outputs = frozenset(spec.name for spec in signature.outputs)
        # The common case, one input that is no table, is answered without dictionaries.
        self._plain = None if signature.table or signature.guessed else self._only
        if self._plain is not None:
            shape = self._plain.shape
            self._rank = len(shape)
            self._fixed = tuple((axis, n) for axis, n in enumerate(shape) if n != -1)

    def arrays(self, request: InferRequest) -> Arrays:
        """The arrays for `predict`: by the signature's input names, with its datatypes and shapes.

        Where the signature says so any name is accepted and numbers are converted; a table's
        columns may come as [rows] or [rows, 1] each, or all as one matrix. With content_type `pd`
        the inputs are columns whatever the model; one that takes a matrix gets them side by side,
        in the request's order. Raises InvalidInput that names the input and what is expected;
        InvalidRequest for unknown content types.
        """
        plain = self._plain
        if plain is not None and len(request.inputs) == 1:
            tensor = request.inputs[0]
            shape = tensor.shape
            if (
                (tensor.name == plain.name or self._signature.any_name)
                and len(shape) == self._rank
                and tables.PARAMETER not in request.parameters
                and tables.PARAMETER not in tensor.parameters
            ):
                for axis, extent in self._fixed:
                    if shape[axis] != extent:
                        break
                else:
                    if tensor.datatype == plain.datatype:
                        return {plain.name: tensor.data}
                    return {plain.name: self._converted(tensor, plain).data}
        return self._any_arrays(request)

    def outputs(self, request: InferRequest) -> tuple[str, ...]:
        """The names of the outputs to return, in order: those asked for, or the default ones.
        Empty: the model declares none, and only its answer tells. Raises InvalidInput for unknown
        names."""
        if not request.outputs or not self._outputs:
            return self._default_outputs
        names = tuple([output.name for output in request.outputs])
        if not self._outputs.issuperset(names):
            unknown = next(name for name in names if name not in self._outputs)
            raise InvalidInput(
                f"output {unknown!r} is not one of the model's: {_names(self._signature.outputs)}"
            )
        return names

    def _any_arrays(self, request: InferRequest) -> Arrays:
        given = request.inputs
        lenient = tables.has_content_type(request)
        if lenient:
            given = tables.decode_content(request)
        if not self._specs:
            return {tensor.name: tensor.data for tensor in given}
        only = self._only
        if self._signature.table:
            return self._columns(given)
        if only is not None:
            if tables.is_table(request) and len(only.shape) == 2 and given:
                given = [tables.as_matrix(given, only.name)]
            if self._signature.any_name and len(given) == 1:
                given = [_renamed(given[0], only.name)]
        self._check_names(given)
        arrays = {}
        for tensor in given:
            if not self._signature.guessed:
                spec = self._specs[tensor.name]
                tensor = self._converted(tensor, spec)
                if lenient:
                    tensor = _fitted(tensor, len(spec.shape))
                _check_shape(tensor, spec)
            arrays[tensor.name] = tensor.data
        return arrays

    def _columns(self, given: Sequence[Tensor]) -> Arrays:
        if len(given) == 1 and given[0].name not in self._specs and given[0].data.ndim == 2:
            given = self._split(given[0])
        self._check_names(given)
        columns = []
        for tensor in given:
            data = tables.as_column(tensor.name, tensor.data)
            column = Tensor(tensor.name, tensor.datatype, data.shape, data)
            columns.append(self._converted(column, self._specs[tensor.name]))
        tables.check_rows(columns)
        return {
            column.name: _fitted(column, len(self._specs[column.name].shape)).data
            for column in columns
        }

    def _split(self, matrix: Tensor) -> list[Tensor]:
        """The columns of a matrix that stands for the table."""
        specs = self._signature.inputs
        if matrix.shape[1] != len(specs):
            raise InvalidInput(
                f"input {matrix.name!r} has {matrix.shape[1]} columns, but the model takes "
                f"{len(specs)}: {_names(specs)}"
            )
        columns = []
        for axis, spec in enumerate(specs):
            data = np.ascontiguousarray(matrix.data[:, axis])
            columns.append(Tensor(spec.name, matrix.datatype, data.shape, data))
        return columns

    def _check_names(self, given: Sequence[Tensor]) -> None:
        """Raise InvalidInput unless the signature's inputs are given, each once, and no others;
        optional ones may be missing."""
        kind = "column" if self._signature.table else "input"
        expected = f"the model takes {_names(self._signature.inputs)}"
        seen: set[str] = set()
        for tensor in given:
            if tensor.name not in self._specs:
                raise InvalidInput(f"{kind} {tensor.name!r} is unknown; {expected}")
            if tensor.name in seen:
                raise InvalidInput(f"{kind} {tensor.name!r} is given more than once")
            seen.add(tensor.name)
        if len(seen) < len(self._specs):
            dispensable = seen.union(self._signature.optional)
            missing = [repr(name) for name in self._specs if name not in dispensable]
            if missing:
                plural = "s" if len(missing) > 1 else ""
                raise InvalidInput(f"{kind}{plural} {', '.join(missing)} missing; {expected}")

    def _converted(self, tensor: Tensor, spec: TensorSpec) -> Tensor:
        """`tensor` with the datatype of `spec`."""
        if tensor.datatype == spec.datatype:
            return tensor
        if not self._signature.converts:
            raise InvalidInput(
                f"input {tensor.name!r} has the datatype {tensor.datatype}, but the model takes "
                f"{spec.datatype}"
            )
        data = tensors.convert(tensor.name, tensor.data, tensor.datatype, spec.datatype)
        return Tensor(tensor.name, spec.datatype, tensor.shape, data)


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name, tensor.datatype, tensor.shape, tensor.data, tensor.parameters)


def _fitted(tensor: Tensor, rank: int) -> Tensor:
    """A column, which [n] and [n, 1] both are, with as many axes as are declared."""
    shape = tensor.shape
    if rank == 2 and len(shape) == 1:
        shape = (shape[0], 1)
    elif rank == 1 and len(shape) == 2 and shape[1] == 1:
        shape = (shape[0],)
    return Tensor(tensor.name, tensor.datatype, shape, tensor.data.reshape(shape))


def _check_shape(tensor: Tensor, spec: TensorSpec) -> None:
    shape = tensor.shape
    if len(shape) != len(spec.shape) or any(
        declared not in (-1, extent)
        for declared, extent in zip(spec.shape, shape, strict=True)
    ):
        raise InvalidInput(
            f"input {tensor.name!r} has the shape {list(shape)}, but the model takes "
            f"{list(spec.shape)}{' (-1: any)' if -1 in spec.shape else ''}"
        )


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)


# --- responses ----------------------------------------------------------------------------------


def make_response(
    model: str,
    version: str,
    arrays: Mapping[str, Array],
    request: InferRequest,
    wanted: Sequence[str],
) -> InferResponse:
    """What `predict` gave, as the answer to `request`.

    wanted: the outputs to return, in order, as `RequestCheck.outputs` says; empty: those of
    `arrays` that the request asks for. Datatypes are those of the arrays (strings of any kind:
    BYTES, as UTF-8). Raises ModelFailed when a wanted output is missing or no array of a datatype
    that the protocol has, InvalidInput when one is asked for that was never declared nor given.
    """
    outputs = []
    for name in wanted or _undeclared(model, arrays, request):
        try:
            data = arrays[name]
        except KeyError:
            came = ", ".join(map(repr, arrays)) or "nothing"
            raise ModelFailed(
                f"model {model!r} gave no output {name!r}, which it declares; it gave {came}"
            ) from None
        if not isinstance(data, np.ndarray):
            raise ModelFailed(
                f"model {model!r}: output {name!r} is a {type(data).__name__}, not a numpy array"
            )
        datatype = tensors.DATATYPES.get(data.dtype)
        if datatype is None or datatype == "BYTES":
            datatype, data = _normal(model, name, data)
        outputs.append(Tensor(name, datatype, data.shape, data))
    return InferResponse(model, version, outputs, request.id)


def _undeclared(model: str, given: Mapping[str, Array], request: InferRequest) -> list[str]:
    """Of the outputs that a model without declared ones gave, those that are asked for."""
    for name in given:
        if not _is_text(name):
            raise ModelFailed(
                f"model {model!r} gave an output named {name!r}; names must be text"
            )
    asked = [output.name for output in request.outputs]
    for name in asked:
        if name not in given:
            came = ", ".join(map(repr, given)) or "nothing"
            raise InvalidInput(f"output {name!r} is not one of the model's, which gave {came}")
    return asked or list(given)


def _is_text(name: object) -> bool:
    if not isinstance(name, str):
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _normal(model: str, name: str, data: Array) -> tuple[str, Array]:
    """Arrays of strings as BYTES, of foreign byte order in the native one."""
    if data.dtype.kind in "OUST":
        elements: list[object] = data.ravel().tolist()
        encoded = [_as_bytes(model, name, element) for element in elements]
        return "BYTES", tensors.object_array(encoded, data.shape)
    dtype = data.dtype.newbyteorder("=")
    datatype = tensors.DATATYPES.get(dtype)
    if datatype is None:
        raise ModelFailed(
            f"model {model!r}: output {name!r} has the numpy type {data.dtype}, for which the "
            f"protocol has no datatype; it has {', '.join(tensors.DTYPES)}"
        )
    return datatype, data.astype(dtype)


def _as_bytes(model: str, name: str, element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        try:
            return element.encode()
        except UnicodeEncodeError as error:
            raise ModelFailed(
                f"model {model!r}: output {name!r} holds a string that is no Unicode text: {error}"
            ) from None
    raise ModelFailed(
        f"model {model!r}: output {name!r} holds a {type(element).__name__}; an array of objects "
        "may hold only bytes and strings"
    )
