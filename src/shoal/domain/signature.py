"""What a model takes and gives: tensor datatypes, shapes and names of the Open Inference Protocol.

Pure description; turning bytes into arrays is the business of `codecs`.
"""

from __future__ import annotations

from typing import Final

import msgspec

# Bytes per element; None where elements differ in length. Source: Open Inference Protocol,
# "Tensor Data Types"; BF16 is Triton's and the protocol's later addition.
ELEMENT_BYTES: Final[dict[str, int | None]] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": None,
}
DATATYPES: Final = tuple(ELEMENT_BYTES)


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output. In `shape`, -1 stands for any extent; the first axis is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Inputs and outputs of a model, and how strictly a request must follow them.

    any_name: the model has one input whose name is our convention, so any name is accepted.
    converts: numeric datatypes are converted to the declared one (frameworks that take any matrix);
        otherwise a datatype must match exactly.
    table: the inputs are the columns of one table; they may come as one tensor a column, as rows
        of dicts, or as a single matrix of shape [rows, columns].
    guessed: datatypes and shapes of the inputs are guesses for people, their names are certain;
        tensors pass on as they come, and the framework judges them.
    default_outputs: names returned when a request names none; empty means all.
    optional: names of inputs that a request may leave out.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    any_name: bool = False
    converts: bool = False
    table: bool = False
    guessed: bool = False
    default_outputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
