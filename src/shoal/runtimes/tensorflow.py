"""Loads TensorFlow's SavedModels and frozen graphs into sessions.

Names, datatypes and shapes are those of a SavedModel's signature, or of a frozen graph's
placeholders and of what nothing else takes. Options: `signature`, the name of a SavedModel's other
than `serving_default`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    ShoalError,
)
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.loading import bound_openmp, check_file, taking_notes, unreadable
from shoal.runtimes.positional import Function, PositionalModel
from shoal.runtimes.tensorflow_file import (
    INIT_SIGNATURE,
    SAVED_MODEL,
    SERVE,
    MetaGraph,
    is_graph,
    needed,
    node_of,
    read_saved_model,
    touches_system,
)
from shoal.runtimes.tensorflow_session import (
    SESSION_BYTES,
    OpenSession,
    callers_errors,
    import_tensorflow,
    say,
    spec_of,
)
from shoal.runtimes.wire_format import NotProtobuf

if TYPE_CHECKING:
    from types import ModuleType

_EXTRA: Final = "tensorflow"
_DEFAULT: Final = "serving_default"
_OPTION: Final = "signature"
_DAMAGED: Final = "it is cut off, damaged, or no graph of TensorFlow"
_AGAIN: Final = "copy it again, or export it anew"
_INDEX: Final = "variables.index"
_VARIABLES: Final = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_PLACEHOLDERS: Final = frozenset({"Placeholder", "PlaceholderV2"})
# Operations that answer nothing though nothing takes what they make.
_NO_ANSWERS: Final = frozenset({"Const", "NoOp", "Assert", "PlaceholderWithDefault"})


class TensorFlowRuntime:
    format = "tensorflow"
    suffixes = (".graphdef", ".pb")
    options: tuple[str, ...] | None = (_OPTION,)

    def recognise(self, path: Path, head: bytes) -> bool:
        """A folder with `saved_model.pb`, unless a Python model wraps it; or a file that begins as
        a graph."""
        if path.is_dir():
            return (path / SAVED_MODEL).is_file() and not (path / "model.py").exists()
        return path.suffix.lower() in self.suffixes and is_graph(head)

    def runs_code(self, path: Path) -> bool:
        """Does it hold operations that do more than compute? What cannot be read may."""
        try:
            return touches_system(path) is not None
        except (NotProtobuf, OSError, RecursionError):
            return path.exists() and path.stat().st_size > 0

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        _check_place(artifact, self.suffixes)
        bound_openmp(artifact.threads)
        with taking_notes() as notes:
            framework = import_tensorflow(_EXTRA, artifact)
            try:
                if artifact.path.is_dir():
                    function = _saved_model(framework, artifact)
                else:
                    function = _frozen(framework, artifact)
            except ShoalError:
                raise
            except NotProtobuf as error:
                raise unreadable(artifact, f"{_DAMAGED} ({error})", _AGAIN) from error
            except (framework.errors.OpError, ValueError, TypeError, KeyError) as error:
                raise _refused(framework, artifact, error) from error
            model = PositionalModel(artifact, function)
        model.notes = tuple(notes)
        return model


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is called how: the tensors of the graph by the names that clients use."""

    inputs: Sequence[tuple[TensorSpec, str]]
    outputs: Sequence[tuple[TensorSpec, str]]
    ranks_known: bool
    platform: str
    size_bytes: int


def _function(framework: ModuleType, session: OpenSession, plan: _Plan) -> Function:
    run = session.runner(
        [tensor for _, tensor in plan.inputs], [tensor for _, tensor in plan.outputs]
    )
    return Function(
        inputs=[spec for spec, _ in plan.inputs],
        outputs=[spec for spec, _ in plan.outputs],
        run=run, callers_errors=callers_errors(framework), release=session.close,
        platform=plan.platform, size_bytes=plan.size_bytes, ranks_known=plan.ranks_known, say=say,
    )


# --- SavedModels --------------------------------------------------------------------------------


def _saved_model(framework: ModuleType, artifact: Artifact) -> Function:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = artifact.path / SAVED_MODEL
    read = read_saved_model(path)
    number = _choose(artifact, read)
    stored = _parsed(artifact, SavedModel(), path).meta_graphs[number]
    signature = _signature(artifact, stored.signature_def)
    _prune(stored, read[number], signature)
    graph = _imported(framework, stored.graph_def, stored.meta_info_def.stripped_op_list)
    inputs = _described(framework, artifact, signature.inputs)
    outputs = _described(framework, artifact, signature.outputs)
    variables = sum(file.stat().st_size for file in (artifact.path / "variables").glob("*.data-*"))
    plan = _Plan(
        inputs, outputs, all(not each.tensor_shape.unknown_rank
                             for each in signature.inputs.values()),
        "tensorflow_savedmodel", variables + 4 * stored.ByteSize() + SESSION_BYTES,
    )
    session = OpenSession(framework, graph, artifact.threads)
    try:
        _restore(session, artifact, stored)
        _initialise(session, artifact, stored, read[number])
        return _function(framework, session, plan)
    except BaseException:
        session.close()
        raise


def _choose(artifact: Artifact, graphs: Sequence[MetaGraph]) -> int:
    """The one for serving; there may be others, for training or accelerators."""
    tags = [graph.tags for graph in graphs]
    if frozenset({SERVE}) in tags:
        return tags.index(frozenset({SERVE}))
    if len(graphs) == 1:
        return 0
    listed = "; ".join(", ".join(sorted(each)) or "none" for each in tags)
    raise InvalidArtifact(
        f"model {artifact.model!r}: {artifact.path.name} holds {len(graphs)} graphs, none of them "
        f"with the tag {SERVE} alone (their tags: {listed}); export it with "
        "tf.saved_model.save(model, folder)"
    )


def _signature(artifact: Artifact, signatures: Any) -> Any:
    """The `SignatureDef` that was asked for, else the usual one, else the only one; Any:
    TensorFlow's are untyped."""
    names = sorted(name for name in signatures if name != INIT_SIGNATURE
                   and len(signatures[name].outputs))
    wish = artifact.options.get(_OPTION)
    if wish is None:
        if _DEFAULT in names:
            return signatures[_DEFAULT]
        if len(names) == 1:
            return signatures[names[0]]
    elif wish in names:
        return signatures[str(wish)]
    listed = ", ".join(names) or "none"
    if wish is not None or names:
        asked = _DEFAULT if wish is None else wish
        raise InvalidSpecification(
            f"model {artifact.model!r}: {artifact.path.name} has no signature {asked!r}; it "
            f"has {listed}; name one of them with the option {_OPTION}"
        )
    raise InvalidArtifact(
        f"model {artifact.model!r}: {artifact.path.name} has no signature, so nothing says what it "
        "takes and answers; export it with tf.saved_model.save(model, folder, signatures=…), or a "
        "Keras model with model.export(folder)"
    )


def _prune(stored: Any, read: MetaGraph, signature: Any) -> None:
    """Leave in the graph what the signature needs: a SavedModel also holds how to train, save and
    call it from Python, which is most of a small one."""
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    roots = [node_of(each.name) for each in tensors]
    roots += [*read.init, *read.restore, node_of(stored.saver_def.filename_tensor_name)]
    roots += [node_of(each.tensor_info.name) for each in stored.asset_file_def]
    keep = needed(read.graph, roots)
    graph = stored.graph_def
    nodes = [node for node in graph.node if node.name in keep.nodes]
    functions = [each for each in graph.library.function
                 if each.signature.name in keep.functions]
    versions = graph.versions
    made = type(graph)(node=nodes, versions=versions)
    made.library.function.extend(functions)
    stored.graph_def.CopyFrom(made)
    stored.ClearField("object_graph_def")


def _described(framework: ModuleType, artifact: Artifact, tensors: Any
               ) -> list[tuple[TensorSpec, str]]:
    """Sorted by name: a signature has no order."""
    found = []
    for name in sorted(tensors):
        info = tensors[name]
        if info.WhichOneof("encoding") != "name":
            raise InvalidArtifact(
                f"model {artifact.model!r}: {artifact.path.name} has {name!r} as a sparse or "
                "composite tensor, which the Open Inference Protocol cannot carry; export a "
                "signature of plain tensors"
            )
        dtype = framework.dtypes.as_dtype(info.dtype).name
        shape = _extents(framework.TensorShape(info.tensor_shape))
        found.append((spec_of(artifact, name, dtype, shape), info.name))
    return found


def _restore(session: OpenSession, artifact: Artifact, stored: Any) -> None:
    """Read the variables, where there are any."""
    folder = artifact.path / "variables"
    saver = stored.saver_def
    if not (folder / _INDEX).is_file() or not saver.restore_op_name:
        if any(node.op in _VARIABLES for node in stored.graph_def.node):
            raise unreadable(
                artifact, f"it has variables, but variables/{_INDEX} is missing",
                "copy the whole folder again"
            )
        return
    prefix = np.array(str(folder / "variables").encode(), dtype=np.object_)
    session.runner([saver.filename_tensor_name], targets=[saver.restore_op_name])(prefix)


def _initialise(session: OpenSession, artifact: Artifact, stored: Any, read: MetaGraph) -> None:
    """Fill its tables, from the files that it brings for that."""
    if not read.init:
        return
    assets = {each.tensor_info.name: each.filename for each in stored.asset_file_def}
    for name in assets.values():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise unreadable(artifact, f"it names the file {name[:100]!r}, which is no part of it",
                             "export it anew")
    paths = [np.array(str(artifact.path / "assets" / name).encode(), dtype=np.object_)
             for name in assets.values()]
    session.runner(list(assets), targets=sorted(set(read.init)))(*paths)


# --- frozen graphs ------------------------------------------------------------------------------


def _frozen(framework: ModuleType, artifact: Artifact) -> Function:
    from tensorflow.core.framework.graph_pb2 import GraphDef

    if _OPTION in artifact.options:
        raise InvalidSpecification(
            f"model {artifact.model!r}: a frozen graph such as {artifact.path.name} has no "
            f"signatures; remove the option {_OPTION}"
        )
    stored = _parsed(artifact, GraphDef(), artifact.path)
    variable = next((node for node in stored.node if node.op in _VARIABLES), None)
    if variable is not None:
        raise unreadable(
            artifact, f"its variables are not in it ({variable.name})",
            "freeze it with convert_variables_to_constants_v2, or save a SavedModel"
        )
    graph = _imported(framework, stored, None)
    outputs = _tensors(graph, artifact.outputs) or []
    outputs += [each for each in _unused(stored, graph) if each not in outputs]
    inputs = _tensors(graph, artifact.inputs, complete=True)
    if inputs is None:
        inputs = [node for node in stored.node if node.op in _PLACEHOLDERS]
        inputs = [graph.get_tensor_by_name(f"{node.name}:0") for node in inputs]
    if not outputs or not inputs:
        raise unreadable(artifact, "it has no placeholders, or nothing that answers",
                         "export it with its inputs and outputs")
    plan = _Plan(
        [(_spec(artifact, each), each.name) for each in inputs],
        [(_spec(artifact, each), each.name) for each in outputs],
        all(each.shape.rank is not None for each in inputs),
        # Constants are held by the graph, by what the session made of it for itself and for the
        # call, and by the operations.
        "tensorflow_graphdef", 4 * stored.ByteSize() + SESSION_BYTES,
    )
    session = OpenSession(framework, graph, artifact.threads)
    try:
        return _function(framework, session, plan)
    except BaseException:
        session.close()
        raise


def _tensors(graph: Any, specs: Iterable[TensorSpec], complete: bool = False) -> list[Any] | None:
    """Those of the graph that are declared by name. complete: None unless all are."""
    found = []
    for spec in specs:
        try:
            found.append(graph.get_tensor_by_name(
                spec.name if ":" in spec.name else f"{spec.name}:0"
            ))
        except (KeyError, ValueError):
            if complete:
                return None
    return found or None


def _unused(stored: Any, graph: Any) -> list[Any]:
    """Tensors of the operations whose answers nothing in the graph takes."""
    used = {node_of(name) for node in stored.node for name in node.input}
    last = [node.name for node in stored.node if node.name not in used
            and node.op not in _NO_ANSWERS and node.op not in _PLACEHOLDERS]
    return [tensor for name in last for tensor in graph.get_operation_by_name(name).outputs]


def _spec(artifact: Artifact, tensor: Any) -> TensorSpec:
    """Named as its operation, and after it by number where that makes several."""
    name = tensor.op.name if len(tensor.op.outputs) == 1 else tensor.name
    return spec_of(artifact, name, tensor.dtype.name, _extents(tensor.shape))


def _extents(shape: Any) -> list[int | None] | None:
    """Of a `tf.TensorShape`; Any: TensorFlow's are untyped."""
    return None if shape.rank is None else shape.as_list()


# --- both ---------------------------------------------------------------------------------------


def _check_place(artifact: Artifact, suffixes: tuple[str, ...]) -> None:
    path = artifact.path
    if path.is_dir():
        if not (path / SAVED_MODEL).is_file():
            raise InvalidArtifact(
                f"model {artifact.model!r}: {path.name} is a folder without {SAVED_MODEL}; point "
                f"to a SavedModel's folder, or to a frozen graph ({', '.join(suffixes)})"
            )
        return
    check_file(artifact, suffixes)
    if path.name == SAVED_MODEL:
        raise InvalidArtifact(
            f"model {artifact.model!r}: {path.name} is a part of a SavedModel; point to the folder "
            "that it lies in"
        )


def _parsed(artifact: Artifact, message: Any, path: Path) -> Any:
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactMissing(
            f"model {artifact.model!r}: {path.name} does not exist (any more); put it back"
        ) from error
    except DecodeError as error:
        raise unreadable(artifact, _DAMAGED, _AGAIN) from error
    return message


def _imported(framework: ModuleType, stored: Any, producer: Any) -> Any:
    """A `tf.Graph`. Devices that the training had are not asked for."""
    for node in stored.node:
        node.device = ""
    for function in stored.library.function:
        for node in function.node_def:
            node.device = ""
    graph = framework.Graph()
    with graph.as_default():
        framework.graph_util.import_graph_def(stored, name="", producer_op_list=producer)
    return graph


def _refused(framework: ModuleType, artifact: Artifact, error: Exception) -> InvalidArtifact:
    reason, way_out = say(error), _AGAIN
    if "Op type not registered" in reason or "No op named" in reason:
        reason = reason.split(" in binary")[0]
        way_out = (
            f"TensorFlow {framework.__version__} has no such operation and Shoal loads no "
            "libraries of others: export it with TensorFlow's own, or serve it as a Python model"
        )
    elif "producer" in reason and "consumer" in reason:
        way_out = "upgrade tensorflow"
    return unreadable(artifact, reason, way_out)
