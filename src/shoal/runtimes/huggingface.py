"""Loads Hugging Face folders and answers the tasks of their pipelines. Loading them runs no code.

Only safetensors are read, only by classes of transformers, and only from the folder: nothing is
fetched. Text comes in `text`, as BYTES [n] or [n, 1]; outputs are those of the task. Options:
`task` (else the one that the architecture was made for), `candidate_labels` (where a zero-shot
request names none).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.domain.errors import InvalidInput, InvalidSpecification, RuntimeMissing, ShoalError
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.arrays import text_of
from shoal.runtimes.binding import bind_inputs, bind_outputs, feed, shown_array, wanted
from shoal.runtimes.huggingface_folder import (
    CONFIG,
    PICKLES,
    WEIGHTS,
    Described,
    read_folder,
)
from shoal.runtimes.huggingface_tasks import (
    FeatureExtraction,
    FillMask,
    Network,
    Task,
    TextClassification,
    TokenClassification,
    ZeroShot,
    names_in,
)
from shoal.runtimes.loading import (
    bound_openmp,
    import_framework,
    one_line,
    parallel_calls,
    taking_notes,
    unreadable,
)
from shoal.runtimes.torch_device import (
    KINDS,
    bytes_on,
    check_device,
    finding_room,
    give_back,
    import_torch,
    lacks_room,
    no_room_for_a_call,
)
from shoal.runtimes.torch_program import drop_weights

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from shoal.ports import Arrays

TEXT: Final = TensorSpec("text", "BYTES", (-1,))
LABELS: Final = TensorSpec("candidate_labels", "BYTES", (-1,))
_OTHERS: Final = ("MLmodel", "model.py")  # by which a folder is another format's
_CLASSES: Final = {
    "text-classification": "AutoModelForSequenceClassification",
    "zero-shot-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
}
_SHOWN: Final = 3
_TOKEN_BYTES: Final = 220  # of a token in a tokenizer, as measured
_loading: Final = threading.Lock()  # transformers replaces functions of PyTorch while it loads
_WAY_OUT: Final = "copy the folder again, or save it with the transformers installed here"


class HuggingFaceRuntime:
    format = "huggingface"
    suffixes: tuple[str, ...] = ()
    options: tuple[str, ...] | None = ("task", "candidate_labels")
    accelerators = KINDS

    def recognise(self, path: Path, head: bytes) -> bool:
        """A folder with `config.json` and weights; pickled ones, too, to say what to do."""
        if not path.is_dir() or not (path / CONFIG).is_file():
            return False
        if any((path / name).exists() for name in _OTHERS):
            return False
        return any((path / name).is_file() for name in (*WEIGHTS, *PICKLES))

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        described = read_folder(artifact)
        bound_openmp(artifact.threads)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        with taking_notes() as notes:
            torch = import_torch("huggingface", artifact)
            transformers = import_framework("transformers", "huggingface", artifact)
            _quiet(transformers)
            check_device(torch, artifact)
            with finding_room(torch, artifact):
                network = _open(artifact, described, torch, transformers)
            task = _task(artifact, described, network, transformers)
            model = _HuggingFaceModel(artifact, network, task)
        if described.own_code:
            notes.append(
                f"it brings code of its own (auto_map), which is not run: transformers' "
                f"{type(network.module).__name__} answers instead"
            )
        model.notes = tuple(notes)
        return model


class _HuggingFaceModel:
    max_batch_rows: int
    notes: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact, network: Network, task: Task) -> None:
        specs = (TEXT, LABELS) if task.labels else (TEXT,)
        self._model = artifact.model
        self._task: Task | None = task
        self._takes_labels = task.labels
        self._labels = artifact.options.get("candidate_labels")
        self._inputs = bind_inputs(artifact, specs)
        self._outputs = bind_outputs(artifact, task.outputs)
        self._default = self._outputs if artifact.outputs else self._outputs[: task.default]
        self._network: Network | None = network
        self._device, self._torch = artifact.device, network.torch
        weights = (*network.module.parameters(), *network.module.buffers())
        self._there = bytes_on(weights, self._device)
        size = sum(tensor.numel() * tensor.element_size() for tensor in weights)
        self._size: int = _TOKEN_BYTES * len(network.tokenizer) + max(size - self._there, 0)
        if task.labels:
            self.max_batch_rows = 1  # the labels of two requests are no rows
        self.platform = "huggingface_pytorch"
        # Modules in evaluation only read their weights, and the tokenizer has a lock.
        self.may_wait = False
        self.max_concurrency = parallel_calls(artifact.threads)
        self.signature = Signature(
            inputs=tuple(bound.shown for bound in self._inputs),
            outputs=tuple(bound.shown for bound in self._outputs),
            any_name=not task.labels and not artifact.inputs,
            guessed=True,  # a column of texts may come as [n, 1] as well
            default_outputs=tuple(bound.shown.name for bound in self._default),
            optional=tuple(bound.shown.name for bound in self._inputs if bound.own == LABELS.name),
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`."""
        task = self._task
        assert task is not None, "predict after close"
        asked = wanted(outputs, self._outputs) if outputs else self._default
        given = [bound for bound in self._inputs
                 if bound.own == TEXT.name or bound.shown.name in inputs]
        fed = feed(inputs, given)
        texts = _texts(fed[TEXT.name], given[0].shown.name)
        labels = self._labels_of(fed, parameters, len(texts)) if self._takes_labels else []
        try:
            found = task.answer(texts, labels, parameters)
        except RuntimeError as error:
            if self._device is not None and lacks_room(self._torch, error):
                raise no_room_for_a_call(self._model, self._device) from error
            raise
        return {bound.shown.name: shown_array(found[bound.own], bound) for bound in asked}

    def size_bytes(self) -> int | None:
        return self._size

    def accelerator_bytes(self) -> int:
        return self._there

    def close(self) -> None:
        """Lets go of the weights and the tokenizer, which hold all memory."""
        network, self._task, self._network = self._network, None, None
        if network is not None and self._device is not None:
            drop_weights(network.module)
            give_back(network.torch, self._device)

    def _labels_of(self, fed: Arrays, parameters: Mapping[str, JsonValue], rows: int
                   ) -> Sequence[Sequence[str]]:
        """Those of each row: from the input (one list for all, or one a row), the parameter, or the
        model's options."""
        array = fed.get(LABELS.name)
        if array is not None and array.ndim == 2 and len(array) == rows:
            named = [_texts(row, LABELS.name) for row in array]
        elif array is not None:
            named = [_texts(array, LABELS.name)] * rows
        else:
            given = parameters.get(LABELS.name, self._labels)
            if given is None:
                raise InvalidInput(
                    f"model {self._model!r} needs candidate_labels, as an input, as a parameter, "
                    "or among the options of its declaration"
                )
            named = [names_in(given, LABELS.name)] * rows
        if any(not each for each in named):
            raise InvalidInput("candidate_labels is empty; name at least one label")
        return named


def _texts(array: NDArray[np.generic], name: str) -> list[str]:
    """Of [n] or [n, 1]. Raises InvalidInput."""
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise InvalidInput(
            f"input {name!r} has the shape {list(array.shape)}; texts come as [-1] or [-1, 1]"
        )
    if array.dtype.kind != "O":
        raise InvalidInput(f"input {name!r} takes text (BYTES), and numbers came")
    texts: list[str] = text_of(array, name).tolist()
    return texts


# --- loading ------------------------------------------------------------------------------------


def _quiet(transformers: ModuleType) -> None:
    """No progress bars, and no reports of what we tell ourselves."""
    logging = transformers.utils.logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _open(artifact: Artifact, described: Described, torch: ModuleType, transformers: ModuleType
          ) -> Network:
    local = {"local_files_only": True, "trust_remote_code": False}
    folder = str(artifact.path)
    try:
        with _loading:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
            module, report = getattr(transformers, _CLASSES[described.task]).from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
            )
    except ImportError as error:
        raise RuntimeMissing(
            f"model {artifact.model!r}: {artifact.path.name} needs a package that is not "
            f"installed ({one_line(error)}); install it"
        ) from error
    except Exception as error:  # its classes raise anything; told as the reason
        raise _refused(artifact, described, error) from error
    _check_whole(artifact, described.task, report["missing_keys"])
    if artifact.device is None:
        _take_over(torch, module)
    else:
        module.to(artifact.device)
    return Network(torch, tokenizer, module.eval(), described.max_tokens, artifact.device)


def _check_whole(artifact: Artifact, task: str, missing: Iterable[str]) -> None:
    """Weights that are not there are made up, and would answer nonsense."""
    names = sorted(
        name for name in missing if not (task == "feature-extraction" and "pooler" in name)
    )
    if names:
        more = " and more" if len(names) > _SHOWN else ""
        raise unreadable(
            artifact, f"its weights lack {', '.join(names[:_SHOWN])}{more}, so it was not trained "
            f"for {task}", "set the option task to what it was trained for",
        )


def _take_over(torch: ModuleType, module: Any) -> None:
    """Weights are views of the file at first, which somebody may overwrite while we answer."""
    with torch.no_grad():
        for tensor in chain(module.parameters(), module.buffers()):
            tensor.data = tensor.data.clone()


def _task(artifact: Artifact, described: Described, network: Network, transformers: ModuleType
          ) -> Task:
    try:
        match described.task:
            case "text-classification":
                return TextClassification(network)
            case "token-classification":
                pipelines = import_framework(
                    "transformers.pipelines.token_classification", "huggingface", artifact)
                return TokenClassification(network, pipelines)
            case "fill-mask":
                if network.tokenizer.mask_token is None:
                    raise unreadable(artifact, "its tokenizer has no mask token", _WAY_OUT)
                return FillMask(network)
            case "zero-shot-classification":
                return ZeroShot(network, _entailment(artifact, network.module.config))
            case _:
                return FeatureExtraction(network, described.pooling)
    except (AttributeError, KeyError, TypeError) as error:
        raise _refused(artifact, described, error) from error


def _entailment(artifact: Artifact, config: Any) -> int:
    labels = [str(config.id2label[index]) for index in range(config.num_labels)]
    for index, label in enumerate(labels):
        if label.lower().startswith("entail"):
            return index
    raise InvalidSpecification(
        f"model {artifact.model!r}: a zero-shot classification needs a model of inference between "
        f"sentences, with a label 'entailment'; it has {', '.join(labels)}"
    )


def _refused(artifact: Artifact, described: Described, error: Exception) -> ShoalError:
    reason = f"{type(error).__name__}: {one_line(error)}"
    if "trust_remote_code" in str(error) or (described.own_code and "model type" in str(error)):
        return unreadable(
            artifact, "it needs code of its own (auto_map), which is never run",
            "upgrade transformers if it knows the architecture by now, else serve it as a Python "
            "model",
        )
    return unreadable(artifact, reason, _WAY_OUT)
