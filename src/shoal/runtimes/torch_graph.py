"""What a TorchScript graph says of its inputs and outputs.

A graph has names and kinds, but neither datatypes nor shapes: these are read off the first
operation that an input meets, where it has weights. Imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from shoal.domain.signature import TensorSpec

# TorchScript's objects have no types.
Module = Any
Node = Any
Value = Any

_MAX_STEPS: Final = 32
# Operations whose result has as many channels, or features, as their input.
_PASS: Final = frozenset(
    f"aten::{name}" for name in (
        "relu", "relu_", "gelu", "tanh", "sigmoid", "silu", "dropout", "dropout_", "to", "float",
        "contiguous", "detach", "clone", "add", "sub", "mul", "div", "add_", "mul_", "div_",
        "log1p", "batch_norm", "layer_norm",
    )
)
_FLATTEN: Final = frozenset(("aten::flatten", "aten::reshape", "aten::view"))


@dataclass(frozen=True, slots=True)
class Read:
    """inputs: the tensors of `forward` that have no default. certain: by input, whether datatype
    and shape were found; else they are guesses. outputs: names of the answer's parts in order;
    empty when the graph does not fix them. keyed: the answer is a dictionary."""

    inputs: tuple[TensorSpec, ...]
    certain: tuple[bool, ...]
    outputs: tuple[str, ...]
    keyed: bool


class Unsupported(Exception):
    """`forward` takes what no tensors can carry; the text says what."""


def read_graph(module: Module) -> Read:
    """Raises Unsupported."""
    if not hasattr(module, "forward"):
        raise Unsupported("it has no single method forward")
    schema = module.forward.schema
    graph = module.inlined_graph
    values = list(graph.inputs())
    weights = _Weights(module, values[0])
    inputs: list[TensorSpec] = []
    certain: list[bool] = []
    for argument, value in zip(schema.arguments[1:], values[1:], strict=False):
        if argument.has_default_value():
            continue
        if str(argument.type) not in ("Tensor", "Optional[Tensor]"):
            raise Unsupported(f"its forward takes {argument.name!r} of the type {argument.type}")
        found = _first_use(value, weights)
        certain.append(found is not None)
        datatype, shape = found or (weights.datatype, (-1,))
        inputs.append(TensorSpec(argument.name, datatype, shape))
    if not inputs:
        raise Unsupported("its forward takes no tensor")
    answer = str(schema.returns[0].type)
    return Read(
        tuple(inputs), tuple(certain), _output_names(answer, graph), answer.startswith("Dict[str,")
    )


def _output_names(kind: str, graph: Any) -> tuple[str, ...]:
    if kind == "Tensor":
        return (output_name(0, 1),)
    value = next(iter(graph.outputs()))
    if len(value.uses()) > 1:  # something is still put into it
        return ()
    result = value.node()
    parts = list(result.inputs())
    if result.kind() in ("prim::TupleConstruct", "prim::ListConstruct") and parts and all(
        str(part.type()) == "Tensor" for part in parts
    ):
        return tuple(output_name(index, len(parts)) for index in range(len(parts)))
    if result.kind() == "prim::DictConstruct":
        keys = [part.node().s("value") for part in parts[::2] if _is_text(part.node())]
        return tuple(keys) if len(keys) * 2 == len(parts) else ()
    return ()


def output_name(index: int, count: int) -> str:
    """Of a part of an answer that has no name."""
    return "output" if count == 1 else f"output_{index}"


def _is_text(node: Node) -> bool:
    return bool(node.kind() == "prim::Constant" and node.kindOf("value") == "s")


class _Weights:
    """Finds the tensor behind a value that is an attribute of the module."""

    def __init__(self, module: Module, self_value: Value) -> None:
        self._module = module
        self._self = self_value.debugName()
        first = next(
            (str(tensor.dtype) for tensor in module.parameters() if tensor.is_floating_point()),
            "torch.float32",
        )
        self.datatype = {
            "torch.float64": "FP64", "torch.float16": "FP16", "torch.bfloat16": "BF16",
        }.get(first, "FP32")

    def shape_of(self, value: Value) -> tuple[int, ...] | None:
        node = value.node()
        if node.kind() == "aten::t":
            shape = self.shape_of(next(iter(node.inputs())))
            return None if shape is None else shape[::-1]
        if node.kind() == "prim::Constant" and node.kindOf("value") == "t":
            return tuple(node.t("value").shape)
        path: list[str] = []
        while node.kind() == "prim::GetAttr":
            path.append(node.s("name"))
            value = next(iter(node.inputs()))
            node = value.node()
        if not path or value.debugName() != self._self:
            return None
        found = self._module
        for name in reversed(path):
            found = getattr(found, name, None)
        shape = getattr(found, "shape", None)
        return None if shape is None else tuple(shape)


def _first_use(value: Value, weights: _Weights) -> tuple[str, tuple[int, ...]] | None:
    """Datatype and shape that the first operation with weights asks for; None when there is none
    on the way."""
    flat = False
    for _ in range(_MAX_STEPS):
        uses = [use.user for use in value.uses()]
        for node in uses:
            found = _asked_by(node, value, weights, flat)
            if found is not None:
                return found
        following = next((node for node in uses if node.kind() in _PASS | _FLATTEN), None)
        if following is None:
            return None
        flat = flat or following.kind() in _FLATTEN
        value = next(iter(following.outputs()))
    return None


def _asked_by(node: Node, value: Value, weights: _Weights, flat: bool
              ) -> tuple[str, tuple[int, ...]] | None:
    kind, inputs = node.kind(), list(node.inputs())
    place = next(
        (index for index, item in enumerate(inputs) if item.debugName() == value.debugName()), -1
    )
    if kind == "aten::embedding" and place == 1:
        return None if flat else ("INT64", (-1, -1))
    if kind in ("aten::linear", "aten::matmul", "aten::mm") and place == 0:
        shape = weights.shape_of(inputs[1])
        features = None if not shape else shape[-1 if kind == "aten::linear" else 0]
    elif kind == "aten::addmm" and place == 1:
        shape = weights.shape_of(inputs[2])
        features = shape[0] if shape else None
    elif kind.startswith("aten::") and "conv" in kind and place == 0 and not flat:
        return _asked_by_convolution(node, inputs, weights)
    else:
        return None
    # Behind a flatten the caller's rank is open; a flat row is what surely fits.
    return None if features is None else (weights.datatype, (-1, features))


def _asked_by_convolution(node: Node, inputs: list[Value], weights: _Weights
                          ) -> tuple[str, tuple[int, ...]] | None:
    shape = weights.shape_of(inputs[1])
    if not shape or len(shape) < 3:
        return None
    traced = node.kind() == "aten::_convolution"  # one operation for all, with more arguments
    transposed = inputs[6].toIValue() if traced else "transpose" in node.kind()
    groups = inputs[8 if traced else 6].toIValue() or 1
    channels = shape[0] if transposed else shape[1] * int(groups)
    return weights.datatype, (-1, channels, *(-1,) * (len(shape) - 2))
