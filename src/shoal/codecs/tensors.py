"""Elements of tensors: JSON lists and raw bytes to numpy arrays and back, conversion of datatypes.

Knows datatypes and shapes, no protocol and no model. Every array it makes is its own: contiguous,
aligned, writable. Errors name the input that the caller names.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Sequence
from functools import cache
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import ml_dtypes
import msgspec
import numpy as np

from shoal.codecs import json_errors
from shoal.domain.errors import InvalidInput, InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]

# The wire is little-endian. Source: Open Inference Protocol, "Binary Tensor Data Extension".
DTYPES: Final[dict[str, np.dtype[np.generic]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
DATATYPES: Final = {dtype: datatype for datatype, dtype in DTYPES.items()}
MAX_RANK: Final = 32  # axes of a tensor; numpy's own limit is 64
FLOATS: Final = frozenset({"FP16", "BF16", "FP32", "FP64"})

# Half a step beyond the largest finite value: from here on rounding gives infinity. BF16 is rounded
# by way of FP32, hence its second term.
_FLOAT_BOUNDS: Final = {
    "FP16": 65520.0,
    "BF16": 2.0**128 - 2.0**119 - 2.0**103,
    "FP32": 2.0**128 - 2.0**103,
}
_LENGTH: Final = struct.Struct("<I")
_LARGE_BYTES: Final = 4 * 1024**2  # from here on numpy asks for huge pages, a fifth of the cost


class Base64(msgspec.Struct, forbid_unknown_fields=True):
    """V1's way to write bytes: `{"b64": "…"}`."""

    b64: str


def _element(datatype: str) -> object:
    """The type msgspec checks one JSON element against."""
    if datatype == "BYTES":
        return str
    if datatype == "BOOL":
        return bool | Literal[0, 1]
    if datatype == "FP64":
        return float
    if datatype in FLOATS:
        bound = _FLOAT_BOUNDS[datatype]
        return Annotated[float, msgspec.Meta(gt=-bound, lt=bound)]
    if datatype == "UINT64":  # its upper bound is beyond what Meta takes; numpy checks it
        return Annotated[int, msgspec.Meta(ge=0)]
    least, most = _integer_range(datatype)
    return Annotated[int, msgspec.Meta(ge=least, le=most)]


def _integer_range(datatype: str) -> tuple[int, int]:
    if datatype == "BOOL":
        return 0, 1
    bits = int(datatype.lstrip("UINT"))
    return (0, 2**bits - 1) if datatype[0] == "U" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _lists_of(kind: object, depth: int) -> object:
    """The type of lists nested `depth` deep."""
    for _ in range(depth):
        kind = GenericAlias(list, (kind,))
    return kind


@cache
def _nested(datatype: str, depth: int) -> object:
    """The type of JSON data with `depth` axes. The callers bound `depth`, and so the cache."""
    return _lists_of(_element(datatype), depth)


@cache
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[object]:
    return msgspec.json.Decoder(_nested(datatype, depth))


_FLAT: Final = {datatype: msgspec.json.Decoder(_nested(datatype, 1)) for datatype in DTYPES}


# --- from JSON ----------------------------------------------------------------------------------


def parse_json(name: str, datatype: str, shape: tuple[int, ...], data: msgspec.Raw) -> Array:
    """The elements of a JSON list, flat or nested as `shape` says (an empty shape: also a bare
    value). `datatype` is known, the extents of `shape` are not negative.

    Refused with InvalidInput: a count other than the shape's, values of another JSON type (numbers
    that happen to be whole pass as integers, 0 and 1 as booleans), values outside the datatype's
    range, null. BYTES elements are strings, kept as UTF-8.
    """
    if datatype != "BYTES":
        dtype = DTYPES[datatype]
        try:
            return np.array(_FLAT[datatype].decode(data), dtype).reshape(shape)
        except (ValueError, OverflowError, msgspec.DecodeError):
            pass
        if len(shape) > 1:
            try:
                array = np.array(_decoder(datatype, len(shape)).decode(data), dtype)
            except (ValueError, OverflowError, msgspec.DecodeError):
                pass
            else:
                if array.shape == shape:
                    return array
    return _parse_json_carefully(name, datatype, shape, data)


def _parse_json_carefully(
    name: str, datatype: str, shape: tuple[int, ...], data: msgspec.Raw
) -> Array:
    """As `parse_json`, for everything uncommon; says what is wrong."""
    try:
        values: object = msgspec.json.decode(data)
    except json_errors.DECODING_ERRORS as error:
        refusal = json_errors.as_refusal(error, bytes(data))
        raise InvalidInput(f"input {name!r}: data: {refusal.message}") from None
    if not isinstance(values, list):
        depth = 0
    elif values and isinstance(values[0], list):
        depth = max(len(shape), 1)
    else:
        depth = 1
    if depth == 0 and shape:
        raise InvalidInput(f"input {name!r}: 'data' must be a list")
    array = from_values(name, datatype, values, depth)
    if depth > 1 and array.shape != shape:
        raise InvalidInput(
            f"input {name!r}: 'data' is nested as {list(array.shape)}, but 'shape' says "
            f"{list(shape)}"
        )
    _check_count(name, shape, array.size)
    return _reshape(name, array, shape)


def from_values(
    name: str, datatype: str, values: object, depth: int, *, base64: bool = False
) -> Array:
    """Decoded JSON, lists nested `depth` deep, as an array with `depth` axes.

    base64: BYTES elements may be `{"b64": "…"}`. Raises InvalidInput as `parse_json` does, and
    where inner lists differ in length.
    """
    if datatype == "BYTES":
        return _bytes_from_values(name, values, depth, base64=base64)
    kind = _nested(datatype, depth)
    try:
        checked: object = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        if datatype in FLOATS or datatype == "BOOL":
            raise _wrong_value(name, datatype, error) from None
        try:
            checked = msgspec.convert(_whole_numbers(values, depth), kind)
        except msgspec.ValidationError as still:
            raise _wrong_value(name, datatype, still) from None
    try:
        return np.array(checked, DTYPES[datatype])
    except OverflowError:
        raise InvalidInput(f"input {name!r}: a value is out of range for {datatype}") from None
    except ValueError:
        raise _ragged(name) from None


def _bytes_from_values(name: str, values: object, depth: int, *, base64: bool) -> Array:
    kind = _lists_of(str | Base64, depth) if base64 else _nested("BYTES", depth)
    try:
        checked: object = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _wrong_value(name, "BYTES", error) from None
    texts = np.array(checked, object)
    if texts.ndim != depth:
        raise _ragged(name)
    return object_array([_as_bytes(name, text) for text in texts.ravel()], texts.shape)


def _as_bytes(name: str, value: object) -> bytes:
    if isinstance(value, Base64):
        return from_base64(name, value.b64)
    assert isinstance(value, str)
    return value.encode()


def from_base64(name: str, text: str | bytes) -> bytes:
    """Raises InvalidInput, naming the input, for what is not base64."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise InvalidInput(f"input {name!r}: a value is not valid base64: {error}") from None


def object_array(values: Sequence[object], shape: tuple[int, ...]) -> Array:
    """How BYTES live in memory."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _whole_numbers(values: object, depth: int) -> object:
    """`values` with 3.0 written 3, wherever that is exact."""
    if depth and isinstance(values, list):
        return [_whole_numbers(value, depth - 1) for value in values]
    if isinstance(values, float) and values.is_integer():
        return int(values)
    return values


def _wrong_value(name: str, datatype: str, error: msgspec.ValidationError) -> InvalidInput:
    place, problem = json_errors.describe(error)
    text = f"input {name!r}: data{place}: {problem}"
    if "<" in problem or ">" in problem or "out of range" in problem:
        text = f"{text}; the value is out of range for {datatype}"
    elif datatype in FLOATS and problem.endswith("got null"):
        text = f"{text}; JSON has no NaN or Infinity: send this tensor as binary data, with V2"
    elif datatype == "BOOL":
        text = f"input {name!r}: data{place}: BOOL takes true, false, 0 and 1"
    else:
        text = f"{text}; the datatype is {datatype}"
    return InvalidInput(text)


def _ragged(name: str) -> InvalidInput:
    return InvalidInput(f"input {name!r}: the lists in 'data' differ in length")


def _check_count(name: str, shape: tuple[int, ...], count: int) -> None:
    expected = math.prod(shape)
    if count != expected:
        raise InvalidInput(
            f"input {name!r}: shape {list(shape)} needs {expected} elements, 'data' has {count}"
        )


def _reshape(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Of an array with the right number of elements; only an empty one can still fail."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):
        raise _too_large(name, shape) from None


def _too_large(name: str, shape: tuple[int, ...]) -> InvalidInput:
    return InvalidInput(f"input {name!r}: the shape {list(shape)} is too large")


# --- from bytes ---------------------------------------------------------------------------------


def parse_binary(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> Array:
    """The elements in `data`: little-endian, row-major, without padding; BYTES elements each after
    their length in 4 bytes. Raises InvalidInput unless `data` is exactly what `shape` needs.

    A view of `data` where that is aligned and may be written to; else a copy, which is both.
    """
    if datatype == "BYTES":
        elements = _split_elements(name, bytes(data))
        _check_count(name, shape, len(elements))
        return _reshape(name, object_array(elements, (len(elements),)), shape)
    dtype = DTYPES[datatype]
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise InvalidInput(
            f"input {name!r}: shape {list(shape)} of {datatype} needs {needed} bytes, "
            f"{len(data)} came"
        )
    if datatype == "BOOL" and needed and np.frombuffer(data, np.uint8).max() > 1:
        raise InvalidInput(f"input {name!r}: a BOOL byte is neither 0 nor 1")
    try:
        return own(shape, dtype, data)
    except (ValueError, OverflowError):  # an empty tensor with a vast extent
        raise _too_large(name, shape) from None


def own(shape: tuple[int, ...], dtype: np.dtype[np.generic], data: memoryview) -> Array:
    """As `parse_binary` ends, for bytes that are known to be right, and as many as it takes."""
    if data.readonly:
        return np.ndarray(shape, dtype, bytearray(data))
    array = np.ndarray(shape, dtype, data)
    return array if array.flags.aligned else array.copy()


def _split_elements(name: str, data: bytes) -> list[bytes]:
    elements: list[bytes] = []
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < _LENGTH.size:
            raise InvalidInput(
                f"input {name!r}: the data ends within the length of element {len(elements)}"
            )
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if length > end - offset:
            raise InvalidInput(
                f"input {name!r}: element {len(elements)} should have {length} bytes, "
                f"{end - offset} are left"
            )
        elements.append(data[offset : offset + length])
        offset += length
    return elements


# --- to the wire --------------------------------------------------------------------------------


def to_binary(datatype: str, data: Array) -> bytes | memoryview:
    """The opposite of `parse_binary`. A copy, since a model may use its output's memory again while
    the response is still being written."""
    if datatype == "BYTES":
        elements: list[bytes] = data.ravel().tolist()
        return b"".join(
            part for element in elements for part in (_LENGTH.pack(len(element)), element)
        )
    if data.nbytes < _LARGE_BYTES:
        return data.tobytes()
    return data.copy(order="C").reshape(-1).view(np.uint8).data


def to_json(name: str, datatype: str, data: Array) -> object:
    """Something orjson writes (with OPT_SERIALIZE_NUMPY) as a flat list. NaN and Infinity become
    null, as JSON has no word for them.

    Raises InvalidRequest for BYTES that are not UTF-8: the client must ask for binary data.
    """
    if datatype == "BYTES":
        elements: list[bytes] = data.ravel().tolist()
        try:
            return [element.decode() for element in elements]
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"output {name!r} holds bytes that are not UTF-8 text, which JSON cannot carry; "
                "ask for it as binary data, with the output's parameter 'binary_data': true"
            ) from None
    if datatype == "BF16":
        return widen(data).ravel()
    return data.ravel()


# --- between datatypes --------------------------------------------------------------------------

_SAFE: Final = frozenset(
    (source, target)
    for source, source_dtype in DTYPES.items()
    for target, dtype in DTYPES.items()
    if "BYTES" not in (source, target) and np.can_cast(source_dtype, dtype, "safe")
)


def convert(name: str, data: Array, source: str, target: str) -> Array:
    """`data` as `target`, rounded to what the target can express.

    Raises InvalidInput where that would change the meaning: from or to BYTES, beyond the target's
    range, fractions or NaN to integers, other than 0 and 1 to BOOL.
    """
    if source == target:
        return data
    if (source, target) in _SAFE:
        return _cast(data, target)
    refused = f"input {name!r}: {source} does not convert to {target}, which the model takes"
    if "BYTES" in (source, target):
        raise InvalidInput(refused)
    if source == "BF16":
        data = widen(data)
    converted = _cast(data, target)
    if target in FLOATS:
        finite = np.isfinite(widen(converted) if target == "BF16" else converted)
        if not np.array_equal(finite, np.isfinite(data)):
            raise InvalidInput(f"{refused}: a value is out of its range")
        return converted
    if source in FLOATS:
        if not np.isfinite(data).all():
            raise InvalidInput(f"{refused}: a value is NaN or infinite")
        if (data != np.trunc(data)).any():
            raise InvalidInput(f"{refused}: a value has a fraction")
    if data.size and not _fits(data, target):
        raise InvalidInput(f"{refused}: a value is out of its range")
    return converted


def widen(data: Array) -> NDArray[np.float32]:
    """BF16 as FP32, which is exact; orjson does not write BF16, and numpy warns of its NaNs."""
    with np.errstate(all="ignore"):
        return data.astype(np.float32)


def _cast(data: Array, target: str) -> Array:
    """Without numpy's warnings: they would depend on a client's bits (signalling NaNs, say)."""
    with np.errstate(all="ignore"):
        return data.astype(DTYPES[target])


def _fits(data: Array, target: str) -> bool:
    least, most = _integer_range(target)
    return int(data.min()) >= least and int(data.max()) <= most
