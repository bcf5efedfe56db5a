"""Inference requests and responses, whatever protocol carried them.

Mutable structs, which are made in a third of a dataclass's time: the hot path makes several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shoal.domain.model import JsonValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Tensor(msgspec.Struct):
    """A named array. `data` has the numpy type of `datatype` (BYTES: an object array of bytes)
    and the shape `shape`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[np.generic]
    parameters: dict[str, JsonValue] = {}


class RequestedOutput(msgspec.Struct):
    name: str
    parameters: dict[str, JsonValue] = {}


class InferRequest(msgspec.Struct):
    """`outputs`: what was asked for; empty: the model's default outputs."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, JsonValue] = {}
    outputs: list[RequestedOutput] = []


class InferResponse(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, JsonValue] = {}
