"""Opens programs of `torch.export`: a graph of PyTorch's operations with its weights, `.pt2`.

Names, datatypes and shapes are the program's own. Opening one may run code in it, which is for
`torch_file.runs_code` to say. Must not know requests.
"""

from __future__ import annotations

import linecache
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from shoal.domain.errors import InvalidInput
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact
from shoal.runtimes.loading import import_framework, one_line, unreadable
from shoal.runtimes.torch_device import bytes_on, lacks_room
from shoal.runtimes.torch_graph import Read, Unsupported, output_name
from shoal.runtimes.torch_program import DATATYPES, Program, drop_weights, weights_bytes

if TYPE_CHECKING:
    from types import ModuleType

    import torch

SAVE: Final = (
    "save it with torch.export.save(torch.export.export(module.eval(), inputs, "
    "dynamic_shapes=…), 'model.pt2')"
)
_MOST_SHAPES: Final = 4096  # remembered; some 300 bytes each
# Of the graph beside its weights, measured with 5 and with 100 operations.
_PROGRAM_BYTES: Final = 32 * 1024
_OPERATION_BYTES: Final = 2_000
_GUARD: Final = "Guard failed: "
_SOURCES: Final = "<eval_with_key>"
_one_at_a_time: Final = threading.Lock()  # PyTorch keeps what it reads in globals
_LOGGERS: Final = (
    "torch.export", "torch.export.pt2_archive._package", "torch._export.serde.serialize",
)
# What stands behind a placeholder of the graph, other than a user's input.
_PARAMETER, _BUFFER, _CONSTANTS = "PARAMETER", "BUFFER", ("CONSTANT_TENSOR", "CUSTOM_OBJ")


def open_exported(torch: ModuleType, artifact: Artifact, notes: list[str]) -> Program:
    """Raises InvalidArtifact for a file that PyTorch cannot read, Unsupported for a program that
    takes or gives what no tensors can carry. notes: PyTorch's remarks are put there."""
    with _one_at_a_time, _listening() as heard:
        try:
            program = _load(torch, artifact)
            exported = _Exported(artifact.model, program, artifact.device)
        except Unsupported:
            raise
        except Exception as error:  # whatever reading its JSON and its weights runs into
            if lacks_room(torch, error):
                raise
            reason = next((cause for _, cause in heard if cause is not None), error)
            raise unreadable(artifact, *_explained(reason)) from error
        _forget()
    notes.extend(text for text, cause in heard if cause is None)
    return Program(
        call=exported, read=exported.read, source="program", outputs=exported.outputs,
        size_bytes=exported.size_bytes, accelerator_bytes=exported.accelerator_bytes,
        platform="pytorch_exported", alone=not exported.is_pure,
        close=exported.close,
    )


class _Exported:
    """Calls a program, with as little around its operations as its checks allow.

    A program is right only for shapes that meet the conditions under which it was exported. Its
    module checks them, and sorts arguments into the structure that `forward` had; both take 0.1 to
    0.3 ms a call, several times a small network. So shapes are checked when they come for the first
    time, and later calls run the graph itself.
    """

    def __init__(self, model: str, program: Any, device: str | None = None) -> None:
        self._model = model
        signature, spec = program.graph_signature, program.call_spec
        self._module = program.module()
        self._in_spec = spec.in_spec
        places = {node.name: node.meta.get("val") for node in program.graph.nodes}
        users = [each for each in signature.input_specs if each.kind.name == "USER_INPUT"]
        self._inputs = [
            _tensor_spec(each.arg.name, places.get(each.arg.name)) if _is_tensor(each) else None
            for each in users
        ]
        self._flat = [None if _is_tensor(each) else getattr(each.arg, "value", None)
                      for each in users]
        self._types = [places[each.arg.name].dtype for each in users if _is_tensor(each)]
        inputs = tuple(each for each in self._inputs if each is not None)
        given = [each.arg for each in signature.output_specs if each.kind.name == "USER_OUTPUT"]
        shown = [
            _tensor_spec(name, places.get(arg.name)) if type(arg).__name__ == "TensorArgument"
            else None
            for name, arg in zip(_output_names(spec.out_spec), given, strict=True)
        ]
        self._names = [None if each is None else each.name for each in shown]
        self.outputs = tuple(each for each in shown if each is not None)
        if not inputs or not self.outputs:
            raise Unsupported(f"it {'gives' if inputs else 'takes'} no tensor")
        self.read = Read(inputs, (True,) * len(inputs), tuple(e.name for e in self.outputs), False)
        plain = len(given) == len(signature.output_specs)
        # A program that writes (counters, caches) answers by what was asked before.
        self.is_pure = plain and not _writes(program.graph)
        self._graph, self._held = _plain_graph(program) if plain else (None, [])
        self._known: set[tuple[object, ...]] = set()
        operations = _without_notes(self._module)
        self.accelerator_bytes = bytes_on(
            (*self._module.parameters(), *self._module.buffers(), *self._held), device)
        weights = max(weights_bytes(self._module) - self.accelerator_bytes, 0)
        self.size_bytes = weights + _PROGRAM_BYTES + _OPERATION_BYTES * operations

    def __call__(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """By name. Raises InvalidInput for shapes and types for which it was not exported."""
        given = iter(tensors)
        flat = [value if each is None else next(given)
                for each, value in zip(self._inputs, self._flat, strict=True)]
        shapes = tuple([tensor.shape for tensor in tensors])
        if self._graph is not None and shapes in self._known:
            self._check(tensors)
            answers = self._graph(*self._held, *flat)
        else:
            answers = self._checked(tensors, flat)
            if len(self._known) >= _MOST_SHAPES:
                self._known.clear()
            self._known.add(shapes)
        return {name: answer for name, answer in zip(self._names, answers, strict=True)
                if name is not None}

    def close(self) -> None:
        drop_weights(self._module)
        self._module, self._graph, self._held = None, None, []

    def _checked(self, tensors: Sequence[torch.Tensor], flat: Sequence[object]) -> Sequence[Any]:
        from torch.utils._pytree import tree_leaves, tree_unflatten

        self._check(tensors)
        arguments, named = tree_unflatten(list(flat), self._in_spec)
        try:
            leaves: Sequence[Any] = tree_leaves(self._module(*arguments, **named))
        except AssertionError as error:
            if not str(error).startswith(_GUARD):
                raise
            raise InvalidInput(
                f"model {self._model!r} refuses the data: its program was exported for "
                f"{one_line(error).removeprefix(_GUARD)}"
            ) from error
        return leaves

    def _check(self, tensors: Sequence[torch.Tensor]) -> None:
        """Types, which no check of the module's looks at, and ranks, which its guards pass over."""
        for tensor, dtype, spec in zip(tensors, self._types, self.read.inputs, strict=True):
            if tensor.dtype is not dtype or tensor.ndim != len(spec.shape):
                raise InvalidInput(
                    f"model {self._model!r} refuses the data: input {spec.name!r} is "
                    f"{DATATYPES.get(str(tensor.dtype), tensor.dtype)} {list(tensor.shape)}, its "
                    f"program takes {spec.datatype} {list(spec.shape)}"
                )


def _load(torch: ModuleType, artifact: Artifact) -> Any:
    import_framework("torch.export", "pytorch", artifact)
    if artifact.path.suffix == ".pt2":
        program = torch.export.load(artifact.path)
    else:
        with artifact.path.open("rb") as file:  # of other suffixes it takes files, but not names
            program = torch.export.load(file)
    if artifact.device is None:
        return program
    passes = import_framework("torch.export.passes", "pytorch", artifact)
    return passes.move_to_device_pass(program, artifact.device)


def _explained(error: BaseException) -> tuple[str, str]:
    """The reason, and the way out."""
    reason = f"{type(error).__name__}: {one_line(error)}"
    text = str(error)
    if "CUDA" in text or "cuda" in text:
        return reason, f"it was exported on another device; move it to the CPU, and {SAVE}"
    if "version" in text:
        return reason, f"upgrade torch, or {SAVE} with this one"
    if isinstance(error, KeyError | AttributeError | NotImplementedError):
        return reason, f"it may need operations or types that are not installed; or {SAVE}"
    return reason, f"copy it again, or {SAVE}"


def _is_tensor(spec: Any) -> bool:
    """Of an input: constants (numbers, None) were fixed when the program was exported."""
    kind = type(spec.arg).__name__
    if kind not in ("TensorArgument", "ConstantArgument"):
        raise Unsupported(f"its input {spec.arg.name!r} is no tensor")
    return kind == "TensorArgument"


def _tensor_spec(name: str, value: Any) -> TensorSpec:
    """Extents that the program leaves open become -1. value: what the export saw there."""
    datatype = DATATYPES.get(str(getattr(value, "dtype", None)))
    if datatype is None:
        raise Unsupported(
            f"{name!r} is of the type {getattr(value, 'dtype', type(value).__name__)}, which the "
            "Open Inference Protocol cannot carry"
        )
    return TensorSpec(
        name, datatype, tuple(extent if type(extent) is int else -1 for extent in value.shape)
    )


def _output_names(spec: Any) -> list[str]:
    """By the structure that `forward` returned: keys of dicts, `output_0` … of sequences, joined
    with dots where they are nested."""
    from torch.utils._pytree import tree_flatten_with_path, tree_unflatten

    paths, _ = tree_flatten_with_path(tree_unflatten(list(range(spec.num_leaves)), spec))
    return [".".join(map(_step, path)) or output_name(0, 1) for path, _ in paths]


def _step(key: Any) -> str:
    if hasattr(key, "idx"):
        return f"output_{key.idx}"
    return str(key.key if hasattr(key, "key") else getattr(key, "name", key))


def _plain_graph(program: Any) -> tuple[Callable[..., Sequence[Any]] | None, list[Any]]:
    """The graph as a function, and the weights that it takes before the inputs; None where it needs
    more than these."""
    held: list[Any] = []
    inputs_begun = False
    for spec in program.graph_signature.input_specs:
        kind = spec.kind.name
        if kind == "USER_INPUT":
            inputs_begun = True
            continue
        if inputs_begun:
            return None, []
        if kind == _PARAMETER or (kind == _BUFFER and spec.persistent):
            held.append(program.state_dict[spec.target])
        elif kind == _BUFFER or kind in _CONSTANTS:
            held.append(program.constants[spec.target])
        else:
            return None, []
    module = program.graph_module
    if any(node.op in ("get_attr", "call_module") for node in module.graph.nodes):
        return module.forward, held
    forward = type(module).forward  # without the module, and all that the graph's nodes hold
    return lambda *flat: forward(None, *flat), held


def _writes(graph: Any) -> bool:
    """Does an operation write into what the graph is given: weights, buffers, inputs? Writing into
    what it made itself (`relu_`) harms nobody."""
    for node in graph.nodes:
        for argument, value in _arguments(node):
            alias = argument.alias_info
            if alias is not None and alias.is_write and _is_given(value):
                return True
    return False


def _is_given(node: Any) -> bool:
    """Behind all views of it."""
    while getattr(node, "op", None) == "call_function":
        viewed = [value for argument, value in _arguments(node) if argument.alias_info is not None]
        if not viewed:
            return False
        node = viewed[0]
    return getattr(node, "op", None) in ("placeholder", "get_attr")


def _arguments(node: Any) -> list[tuple[Any, Any]]:
    """What an operation says of each of its arguments, and the node that it gets there."""
    schema = getattr(node.target, "_schema", None)
    return [
        (argument, node.args[index] if index < len(node.args) else node.kwargs.get(argument.name))
        for index, argument in enumerate(schema.arguments if schema is not None else ())
    ]


def _without_notes(module: Any) -> int:
    """Drop what the export noted about each operation, half of the graph's memory; the checks only
    need what is noted of the inputs. How many operations there are."""
    count = 0
    for node in module.graph.nodes:
        if node.op != "placeholder":
            node.meta.clear()
            count += 1
    return count


def _forget() -> None:
    """PyTorch keeps what it made of each program for ever: the source of its graphs, for tracebacks
    (60 KiB for 100 operations, at every load), and what it learnt of its shapes (11 KiB). These
    names are PyTorch's own affair, so they may be gone in another version."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx import graph_module
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    for each in (FakeTensorMode, *vars(ShapeEnv).values()):
        clear = getattr(each, "cache_clear", None)
        if clear is not None:
            clear()
    for kept in (getattr(getattr(graph_module, "_loader", None), "eval_cache", {}),
                 linecache.cache):
        for name in [name for name in list(kept) if name.startswith(_SOURCES)]:
            kept.pop(name, None)


# --- what PyTorch logs ---------------------------------------------------------------------------


class _Listener(logging.Filter):
    """Takes the records of a thread that listens; those of others pass."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        heard: list[tuple[str, BaseException | None]] | None = getattr(self.here, "heard", None)
        if heard is None:
            return True
        cause = record.exc_info[1] if record.exc_info else None
        heard.append((one_line(record.getMessage()), cause))
        return False


_listener: Final = _Listener()


@contextmanager
def _listening() -> Iterator[list[tuple[str, BaseException | None]]]:
    """What PyTorch logs on this thread while it reads a program, and the errors it logs it with:
    the true reason is logged, and what is raised comes of trying an older format next."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_listener)  # a second time it changes nothing
    _listener.here.heard = []
    try:
        yield _listener.here.heard
    finally:
        _listener.here.heard = None
