"""Reads which operations a TensorFlow graph has, and which of them a signature needs, before
TensorFlow sees the file.

So Shoal can tell whether a graph would touch more than its own numbers, and load no more of it than
answers. Layout: `saved_model.proto`, `meta_graph.proto`, `graph.proto`, `function.proto` of
TensorFlow, and the encoding of protocol buffers. Imports no framework.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shoal.runtimes.wire_format import NotProtobuf, fields, varint

SAVED_MODEL: Final = "saved_model.pb"
SERVE: Final = "serve"
INIT_SIGNATURE: Final = "__saved_model_init_op"
INIT_COLLECTIONS: Final = ("saved_model_main_op", "legacy_init_op")

# What a graph may do besides computing: run Python, read and write files, speak to other machines,
# end the process, run compiled programs. By TensorFlow 2.21's list of its 1,908 operations.
_SYSTEM: Final = re.compile(
    r"PyFunc|NumpyFunc|File|Reader|RecordInput|Save|Restore|Checkpoint|Snapshot|LoadAndRemap"
    r"|(TextLine|TFRecord|LengthRecord|CSV|Sql|LMDB|Load|Cache|DataService)\w*Dataset|TFRecord"
    r"|LMDB|SummaryWriter|CreateSummary|Write\w*Summary|ImportEvent|PrintV2|^Debug|DumpTensor"
    r"|Abort|Rpc|RemoteCall|^_?(Host)?(Send|Recv)$|Collective|FixedUnigram|RegisterDataset"
    r"|XlaCallModule|XlaCustomCall|XlaHostCompute|XlaSendToHost|XlaRecvFromHost|Infeed|Outfeed|TPU"
)
# Of these only what reads the variables, on the way that does so and on no other.
_CHECKPOINT: Final = frozenset({"Restore", "RestoreSlice", "RestoreV2"})

_HEAD_NODE: Final = 0x0A  # GraphDef begins with its field 1, a node
_OP: Final = re.compile(rb"[A-Z_][A-Za-z0-9_>./]*")
_MAX_DEPTH: Final = 32


@dataclass(frozen=True, slots=True)
class Node:
    """op: the operation, or the name of a function. inputs: names of nodes. functions: that its
    attributes name."""

    op: str
    inputs: tuple[str, ...]
    functions: tuple[str, ...]


@dataclass(slots=True)
class Graph:
    """nodes: by name. functions: by name, the nodes of each."""

    nodes: dict[str, Node] = field(default_factory=dict)
    functions: dict[str, list[Node]] = field(default_factory=dict)


@dataclass(slots=True)
class MetaGraph:
    """One of a SavedModel's graphs. outputs: by signature, the nodes that answer. init: the nodes
    that prepare its tables; restore: the one that reads its variables."""

    graph: Graph = field(default_factory=Graph)
    tags: frozenset[str] = frozenset()
    outputs: dict[str, list[str]] = field(default_factory=dict)
    init: list[str] = field(default_factory=list)
    restore: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Needed:
    """nodes: of the graph. functions: that they call, those calling each other included. ops: what
    all of them do."""

    nodes: frozenset[str]
    functions: frozenset[str]
    ops: frozenset[str]


def is_graph(head: bytes) -> bool:
    """Do these bytes begin a GraphDef? Its first field is a node, whose first two are a name and an
    operation."""
    if not head or head[0] != _HEAD_NODE:
        return False
    try:
        data = memoryview(head)
        size, at = varint(data, 1)
        found: dict[int, bytes] = {}
        for number, content in fields(data[at : at + size]):
            if isinstance(content, memoryview):
                found[number] = bytes(content)
            if number == 2:  # what follows may reach beyond these bytes
                break
        return bool(found.get(1)) and _OP.fullmatch(found.get(2, b"")) is not None
    except NotProtobuf:
        return False


def touches_system(path: Path) -> str | None:
    """An operation by which the artifact, a frozen graph or a SavedModel's folder, would do more
    than compute; None when there is none. Raises NotProtobuf, OSError."""
    if not path.is_dir():
        ops = {node.op for node in _everything(read_graph(path))}
        return _first_of(ops)
    for meta in read_saved_model(path / SAVED_MODEL):
        roots = [*(name for names in meta.outputs.values() for name in names), *meta.init]
        found = _first_of(needed(meta.graph, roots).ops) or _first_of(
            needed(meta.graph, meta.restore).ops - _CHECKPOINT
        )
        if found is not None:
            return found
    return None


def read_graph(path: Path) -> Graph:
    """Of a GraphDef. Raises NotProtobuf, OSError."""
    return _graph(_mapped(path))


def read_saved_model(path: Path) -> list[MetaGraph]:
    """Of a file `saved_model.pb`. Raises NotProtobuf, OSError."""
    found = [_meta_graph(each) for each in _parts(_mapped(path), 2)]
    if not found:
        raise NotProtobuf("it holds no graph")
    return found


def needed(graph: Graph, roots: Iterable[str]) -> Needed:
    """What computing the nodes `roots` takes."""
    nodes: set[str] = set()
    ops: set[str] = set()
    functions: set[str] = set()
    waiting = list(roots)
    calls: list[str] = []
    while waiting:
        name = waiting.pop()
        node = graph.nodes.get(name)
        if name in nodes or node is None:
            continue
        nodes.add(name)
        ops.add(node.op)
        waiting += node.inputs
        calls += (node.op, *node.functions)
    while calls:
        name = calls.pop()
        if name in functions or name not in graph.functions:
            continue
        functions.add(name)
        for node in graph.functions[name]:
            ops.add(node.op)
            calls += (node.op, *node.functions)
    return Needed(frozenset(nodes), frozenset(functions), frozenset(ops - functions))


def node_of(tensor: str) -> str:
    """The node that makes a tensor: `dense/Relu:0`, `^init` and `dense/Relu` to their nodes."""
    return tensor.removeprefix("^").partition(":")[0]


def _everything(graph: Graph) -> Iterator[Node]:
    yield from graph.nodes.values()
    for body in graph.functions.values():
        yield from body


def _first_of(ops: Iterable[str]) -> str | None:
    return next((op for op in sorted(ops) if _SYSTEM.search(op)), None)


# --- messages -----------------------------------------------------------------------------------


def _meta_graph(data: memoryview) -> MetaGraph:
    meta = MetaGraph()
    for number, content in fields(data):
        if not isinstance(content, memoryview):
            continue
        if number == 1:  # meta_info_def
            meta.tags = frozenset(_texts(content, 4))
        elif number == 2:
            meta.graph = _graph(content)
        elif number == 3:  # saver_def
            meta.restore = [node_of(name) for name in _texts(content, 3) if name]
        elif number == 4:  # collection_def
            name, inner = _entry(content)
            if name in INIT_COLLECTIONS:
                lists = _parts(inner, 1)
                meta.init += [node_of(each) for nodes in lists for each in _texts(nodes, 1)]
        elif number == 5:  # signature_def
            name, inner = _entry(content)
            nodes = [node for output in _parts(inner, 2) for node in _tensor_nodes(output)]
            if name == INIT_SIGNATURE:
                meta.init += nodes
            else:
                meta.outputs[name] = nodes
    return meta


def _tensor_nodes(entry: memoryview) -> Iterator[str]:
    """Of a signature's output: a tensor, a sparse one's three, or a composite one's parts."""
    _, info = _entry(entry)
    for number, content in fields(info):
        if not isinstance(content, memoryview):
            continue
        if number == 1:
            yield node_of(_text(content))
        elif number == 4:
            for inner in (1, 2, 3):
                yield from map(node_of, _texts(content, inner))
        elif number == 5:
            for part in _parts(content, 2):
                yield from map(node_of, _texts(part, 1))


def _graph(data: memoryview) -> Graph:
    graph = Graph()
    for number, content in fields(data):
        if not isinstance(content, memoryview):
            continue
        if number == 1:
            name, node = _node(content)
            graph.nodes[name] = node
        elif number == 2:
            for function in _parts(content, 1):
                _add_function(graph, function)
    return graph


def _add_function(graph: Graph, data: memoryview) -> None:
    name, body = "", []
    for number, content in fields(data):
        if isinstance(content, memoryview):
            if number == 1:  # signature
                name = next(iter(_texts(content, 1)), "")
            elif number == 3:
                body.append(_node(content)[1])
    graph.functions[name] = body


def _node(data: memoryview) -> tuple[str, Node]:
    name = op = ""
    inputs: list[str] = []
    functions: list[str] = []
    for number, content in fields(data):
        if not isinstance(content, memoryview):
            continue
        if number == 1:
            name = _text(content)
        elif number == 2:
            op = _text(content)
        elif number == 3:
            inputs.append(node_of(_text(content)))
        elif number == 5:
            functions += _functions_in(_entry(content)[1], 0)
    return name, Node(op, tuple(inputs), tuple(functions))


def _functions_in(value: memoryview, depth: int) -> Iterator[str]:
    """That an attribute names: itself, in a list, or as the attribute of another."""
    if depth > _MAX_DEPTH:
        raise NotProtobuf(f"it is nested deeper than {_MAX_DEPTH} levels")
    for number, content in fields(value):
        if not isinstance(content, memoryview):
            continue
        if number == 10:
            yield from _function_names(content, depth)
        elif number == 1:
            for each in _parts(content, 9):
                yield from _function_names(each, depth)


def _function_names(data: memoryview, depth: int) -> Iterator[str]:
    for number, content in fields(data):
        if isinstance(content, memoryview):
            if number == 1:
                yield _text(content)
            elif number == 2:
                yield from _functions_in(_entry(content)[1], depth + 1)


# --- the encoding -------------------------------------------------------------------------------


def _mapped(path: Path) -> memoryview:
    """The file's bytes, read as far as they are looked at: weights are passed over. The file is
    closed with the last view of it."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise NotProtobuf("it is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _entry(data: memoryview) -> tuple[str, memoryview]:
    """Key and value of a map's entry."""
    key, value = "", data[:0]
    for number, content in fields(data):
        if isinstance(content, memoryview):
            if number == 1:
                key = _text(content)
            elif number == 2:
                value = content
    return key, value


def _parts(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, content in fields(data):
        if number == wanted and isinstance(content, memoryview):
            yield content


def _texts(data: memoryview, wanted: int) -> Iterator[str]:
    return map(_text, _parts(data, wanted))


def _text(data: memoryview) -> str:
    return str(data, "utf-8", "backslashreplace")
