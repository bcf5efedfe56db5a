"""Pairs the tensors that people declared with those that a framework knows.

Declared names, datatypes and shapes are what clients see; the framework's own are what it is called
with. Equal names belong together; what remains is paired in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shoal.codecs.tensors import DTYPES
from shoal.domain.errors import InvalidInput, InvalidSpecification
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact

if TYPE_CHECKING:
    from shoal.ports import Arrays


@dataclass(frozen=True, slots=True)
class Bound:
    """shown: as clients see it. own: its name in the framework. own_type, shown_type: what an array
    is converted to on its way in and out; None where the datatypes are equal."""

    shown: TensorSpec
    own: str
    own_type: np.dtype[np.generic] | None = None
    shown_type: np.dtype[np.generic] | None = None


def bind_inputs(artifact: Artifact, own: Sequence[TensorSpec]) -> tuple[Bound, ...]:
    """In the framework's order, each of its inputs once. Raises InvalidSpecification."""
    declared = artifact.inputs or tuple(own)
    if len(declared) != len(own):
        raise _mismatch(artifact, "inputs", declared, own)
    by_own = {bound.own: bound for bound in _pair(artifact, "input", declared, own)}
    return tuple(by_own[spec.name] for spec in own)


def bind_outputs(artifact: Artifact, own: Sequence[TensorSpec]) -> tuple[Bound, ...]:
    """In the declared order; fewer than the framework has may be declared. Raises
    InvalidSpecification."""
    declared = artifact.outputs or tuple(own)
    if len(declared) > len(own):
        raise _mismatch(artifact, "outputs", declared, own)
    return _pair(artifact, "output", declared, own)


def in_order(names: Sequence[str], specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """For each of `names` that of `specs` which is called so; the others follow in order, of which
    there are enough."""
    by_name, named = {spec.name: spec for spec in specs}, set(names)
    rest = iter([spec for spec in specs if spec.name not in named])
    return [by_name.get(name) or next(rest) for name in names]


def feed(inputs: Arrays, bindings: Sequence[Bound]) -> Arrays:
    """`inputs` under the framework's names and in its datatypes. Raises InvalidInput when one is
    missing."""
    fed: Arrays = {}
    for bound in bindings:
        array = inputs.get(bound.shown.name)
        if array is None:
            raise InvalidInput(
                f"input {bound.shown.name!r} is missing; the inputs are "
                f"{', '.join(repr(other.shown.name) for other in bindings)}"
            )
        fed[bound.own] = array if bound.own_type is None else array.astype(bound.own_type)
    return fed


def wanted(outputs: tuple[str, ...], bindings: Sequence[Bound]) -> Sequence[Bound]:
    """Those of `bindings` that a request names; all when it names none. Raises InvalidInput."""
    if not outputs:
        return bindings
    by_name = {bound.shown.name: bound for bound in bindings}
    try:
        return [by_name[name] for name in outputs]
    except KeyError as error:
        raise InvalidInput(
            f"output {error.args[0]!r} is not known; the outputs are "
            f"{', '.join(repr(name) for name in by_name)}"
        ) from None


def shown_array(array: NDArray[np.generic], bound: Bound) -> NDArray[np.generic]:
    """A framework's answer in the datatype that clients were promised."""
    return array if bound.shown_type is None else array.astype(bound.shown_type, copy=False)


def _pair(artifact: Artifact, kind: str, declared: Sequence[TensorSpec],
          own: Sequence[TensorSpec]) -> tuple[Bound, ...]:
    names = [spec.name for spec in declared]
    if len(set(names)) < len(names):
        raise InvalidSpecification(
            f"model {artifact.model!r}: two {kind}s are declared under one name "
            f"({', '.join(names)}); name each once"
        )
    return tuple(
        _bound(artifact, kind, shown, found)
        for shown, found in zip(declared, in_order(names, own), strict=True)
    )


def _bound(artifact: Artifact, kind: str, shown: TensorSpec, own: TensorSpec) -> Bound:
    if shown.datatype == own.datatype:
        return Bound(shown, own.name)
    if "BYTES" in (shown.datatype, own.datatype):
        raise InvalidSpecification(
            f"model {artifact.model!r}: {kind} {shown.name!r} is declared as {shown.datatype}, but "
            f"{artifact.path.name} has {own.datatype} there; correct the declaration"
        )
    return Bound(shown, own.name, DTYPES[own.datatype], DTYPES[shown.datatype])


def _mismatch(artifact: Artifact, kind: str, declared: Sequence[TensorSpec],
              own: Sequence[TensorSpec]) -> InvalidSpecification:
    return InvalidSpecification(
        f"model {artifact.model!r}: {len(declared)} {kind} are declared "
        f"({', '.join(spec.name for spec in declared)}), but {artifact.path.name} has {len(own)} "
        f"({', '.join(spec.name for spec in own)}); correct the declaration"
    )
