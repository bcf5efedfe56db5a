"""Inference requests and responses, whatever protocol carried them.

Plain mutable slots: these are made once per request on the hot path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.domain.model import JsonValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class Tensor:
    """A named array. `data` has the numpy type of `datatype` (BYTES: an object array of bytes)
    and the shape `shape`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[np.generic]
    parameters: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(slots=True)
class RequestedOutput:
    name: str
    parameters: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(slots=True)
class InferRequest:
    """`outputs`: what was asked for; empty: the model's default outputs."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, JsonValue] = field(default_factory=dict)
    outputs: list[RequestedOutput] = field(default_factory=list)


@dataclass(slots=True)
class InferResponse:
    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, JsonValue] = field(default_factory=dict)
