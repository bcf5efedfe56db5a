"""What each task of a Hugging Face model answers: texts in, arrays by output name out.

The arithmetic is that of transformers' pipelines, for many texts at once. Knows networks as
something that gives logits for texts; neither files nor requests.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shoal.codecs.tensors import object_array
from shoal.domain.errors import InvalidInput
from shoal.domain.model import JsonValue
from shoal.domain.signature import TensorSpec
from shoal.runtimes.huggingface_folder import Pooling

if TYPE_CHECKING:
    from types import ModuleType

    from shoal.ports import Arrays

_TEXTS_AT_ONCE: Final = 32
_TOP: Final = 5
_TEMPLATE: Final = "This example is {}."

Floats = NDArray[np.float32]
Parameters = Mapping[str, JsonValue]
Text = str | tuple[str, str]


class Network:
    """A tokenizer and a module; Any: transformers' are not to be known without it."""

    def __init__(self, torch: ModuleType, tokenizer: Any, module: Any, max_tokens: int | None,
                 device: str | None = None) -> None:
        """device: where the module lies; None: on the processor."""
        self.device = device
        self.torch = torch
        self.tokenizer = tokenizer
        self.module = module
        limits = [limit for limit in (max_tokens, tokenizer.model_max_length) if limit]
        self._max_tokens = int(min(limits)) if limits and min(limits) < 10**6 else None
        # The tokenizer keeps how to pad and to cut in itself, and fails when it is used twice.
        self._lock = threading.Lock()

    def run(self, texts: Sequence[Text], **wishes: bool) -> Iterator[tuple[Any, Any]]:
        """What the tokenizer made of some texts, and what the module answers to it; in order."""
        size = _TEXTS_AT_ONCE if self.tokenizer.pad_token is not None else 1
        for start in range(0, len(texts), size):
            given = list(texts[start : start + size])
            with self._lock:
                encoded = self.tokenizer(
                    given, padding=size > 1, truncation=True, max_length=self._max_tokens,
                    return_tensors="pt", **wishes,
                )
            taken = {name: encoded[name] for name in self.tokenizer.model_input_names
                     if name in encoded}
            with self.torch.inference_mode():
                yield encoded, self._run(taken)

    def _run(self, taken: dict[str, Any]) -> Any:
        """The answer lies on the processor, wherever the module does."""
        if self.device is None:
            return self.module(**taken)
        answer = self.module(**{name: each.to(self.device) for name, each in taken.items()})
        for name, part in list(answer.items()):
            if isinstance(part, self.torch.Tensor):
                answer[name] = part.cpu()
        return answer

    def logits(self, texts: Sequence[Text], width: int) -> Floats:
        """[texts, width]."""
        parts = [answer.logits.float().numpy() for _, answer in self.run(texts)]
        return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


class Task(Protocol):
    """outputs: those that answer by default first, `default` of them. labels: takes
    `candidate_labels`, too."""

    outputs: tuple[TensorSpec, ...]
    default: int
    labels: bool

    def answer(self, texts: Sequence[str], labels: Sequence[Sequence[str]],
               parameters: Parameters) -> Arrays:
        """labels: of each text, where the task takes some. Raises InvalidInput."""


class TextClassification:
    """`label` and `score` of the best; `scores` of all, in the order of the configuration."""

    default = 2
    labels = False

    def __init__(self, network: Network) -> None:
        config = network.module.config
        self._network = network
        self._names = [str(config.id2label[index]) for index in range(config.num_labels)]
        self._apply = _function(config)
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec("label", "BYTES", (-1,)), TensorSpec("score", "FP32", (-1,)),
            TensorSpec("scores", "FP32", (-1, len(self._names))),
        )

    def answer(self, texts: Sequence[str], labels: Sequence[Sequence[str]],
               parameters: Parameters) -> Arrays:
        scores = self._apply(self._network.logits(texts, len(self._names)))
        best = scores.argmax(axis=1)
        return {
            "label": _bytes([self._names[index] for index in best], (len(texts),)),
            "score": scores[np.arange(len(texts)), best],
            "scores": scores,
        }


class TokenClassification:
    """`entities`: for each text a JSON list, as the pipeline gives it. Parameters:
    `aggregation_strategy` (none, simple, first, average, max), `ignore_labels`."""

    outputs: tuple[TensorSpec, ...] = (TensorSpec("entities", "BYTES", (-1,)),)
    default = 1
    labels = False

    def __init__(self, network: Network, pipelines: ModuleType) -> None:
        self._network = network
        self._strategies = pipelines.AggregationStrategy
        self._pipeline = pipelines.TokenClassificationPipeline(
            model=network.module, tokenizer=network.tokenizer, device=network.device or "cpu",
        )

    def answer(self, texts: Sequence[str], labels: Sequence[Sequence[str]],
               parameters: Parameters) -> Arrays:
        strategy = self._strategy(parameters.get("aggregation_strategy", "none"))
        ignored = names_in(parameters.get("ignore_labels", ["O"]), "ignore_labels")
        found: list[str] = []
        fast = self._network.tokenizer.is_fast
        for encoded, answer in self._network.run(
            texts, return_special_tokens_mask=True, return_offsets_mapping=fast
        ):
            for row in range(len(answer.logits)):
                part = slice(row, row + 1)
                entities = self._pipeline.postprocess([{
                    "logits": answer.logits[part], "sentence": texts[len(found)],
                    "input_ids": encoded["input_ids"][part],
                    "offset_mapping": encoded["offset_mapping"][part] if fast else None,
                    "special_tokens_mask": encoded["special_tokens_mask"][part],
                }], aggregation_strategy=strategy, ignore_labels=ignored)
                found.append(json.dumps(entities, default=float, ensure_ascii=False))
        return {"entities": _bytes(found, (len(texts),))}

    def _strategy(self, name: JsonValue) -> Any:
        known = {each.value: each for each in self._strategies}
        if name not in known:
            raise InvalidInput(
                f"parameter aggregation_strategy is {name!r}; it is one of {', '.join(known)}"
            )
        return known[name]


class FeatureExtraction:
    """`embedding`: one vector a text."""

    default = 1
    labels = False

    def __init__(self, network: Network, pooling: Pooling) -> None:
        self._network = network
        self._pooling = pooling
        config = network.module.config
        self._width = int(getattr(config, "hidden_size", None) or config.dim)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("embedding", "FP32", (-1, self._width)),)

    def answer(self, texts: Sequence[str], labels: Sequence[Sequence[str]],
               parameters: Parameters) -> Arrays:
        prompted = [self._pooling.prompt + text for text in texts]
        parts = [self._pool(answer[0].float(), encoded["attention_mask"])
                 for encoded, answer in self._network.run(prompted)]
        if not parts:
            return {"embedding": np.zeros((0, self._width), np.float32)}
        return {"embedding": np.concatenate([part.numpy() for part in parts])}

    def _pool(self, tokens: Any, mask: Any) -> Any:
        """[texts, tokens, width] to [texts, width]."""
        torch, mode = self._network.torch, self._pooling.mode
        weights = mask.unsqueeze(-1).float()
        if mode == "mean":
            pooled = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        elif mode == "max":
            pooled = tokens.masked_fill(weights == 0, -torch.inf).max(1).values
        elif mode == "cls":
            pooled = tokens[torch.arange(len(tokens)), mask.argmax(1)]
        else:
            last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
            pooled = tokens[torch.arange(len(tokens)), last]
        if self._pooling.normalised:
            pooled = torch.nn.functional.normalize(pooled, p=2, dim=1)
        return pooled


class FillMask:
    """`token`, `score` and `sequence` of the likeliest fillings. Parameter: `top_k`."""

    outputs: tuple[TensorSpec, ...] = (
        TensorSpec("token", "BYTES", (-1, -1)), TensorSpec("score", "FP32", (-1, -1)),
        TensorSpec("sequence", "BYTES", (-1, -1)),
    )
    default = 3
    labels = False

    def __init__(self, network: Network) -> None:
        self._network = network

    def answer(self, texts: Sequence[str], labels: Sequence[Sequence[str]],
               parameters: Parameters) -> Arrays:
        tokenizer = self._network.tokenizer
        count = _count(parameters.get("top_k", _TOP), "top_k", len(tokenizer))
        tokens: list[str] = []
        sequences: list[str] = []
        scores: list[Floats] = []
        for encoded, answer in self._network.run(texts):
            for ids, logits in zip(encoded["input_ids"], answer.logits, strict=True):
                where = (ids == tokenizer.mask_token_id).nonzero().flatten().tolist()
                if len(where) != 1:
                    raise InvalidInput(
                        f"text {len(scores)} has {len(where)} masks within what the model reads; "
                        f"put exactly one {tokenizer.mask_token} in it"
                    )
                best = logits[where[0]].float().softmax(-1).topk(count)
                scores.append(best.values.numpy())
                for token in best.indices.tolist():
                    filled = ids.clone()
                    filled[where[0]] = token
                    tokens.append(tokenizer.decode([token]))
                    sequences.append(tokenizer.decode(filled, skip_special_tokens=True))
        shape = (len(texts), count)
        return {
            "token": _bytes(tokens, shape), "sequence": _bytes(sequences, shape),
            "score": np.array(scores, np.float32).reshape(shape),
        }


class ZeroShot:
    """`labels` and `scores`, the likeliest first. Parameters: `candidate_labels`,
    `hypothesis_template`, `multi_label`."""

    outputs: tuple[TensorSpec, ...] = (
        TensorSpec("labels", "BYTES", (-1, -1)), TensorSpec("scores", "FP32", (-1, -1)),
    )
    default = 2
    labels = True

    def __init__(self, network: Network, entails: int) -> None:
        self._network = network
        self._entails = entails
        self._contradicts = -1 if entails == 0 else 0

    def answer(self, texts: Sequence[str], labels: Sequence[Sequence[str]],
               parameters: Parameters) -> Arrays:
        template = parameters.get("hypothesis_template", _TEMPLATE)
        if not isinstance(template, str) or "{}" not in template:
            raise InvalidInput("parameter hypothesis_template needs {} where a label goes")
        several = parameters.get("multi_label", False)
        if not isinstance(several, bool):
            raise InvalidInput("parameter multi_label is true or false")
        pairs = [(text, template.replace("{}", label))
                 for text, own in zip(texts, labels, strict=True) for label in own]
        width = len(labels[0]) if labels else 0
        config = self._network.module.config
        logits = self._network.logits(pairs, config.num_labels).reshape(
            len(texts), width, config.num_labels)
        if several or width == 1:
            scores = _softmax(logits[..., [self._contradicts, self._entails]])[..., 1]
        else:
            scores = _softmax(logits[..., self._entails])
        order = np.argsort(scores, axis=-1)[:, ::-1]
        ranked = [own[index] for own, row in zip(labels, order, strict=True) for index in row]
        return {
            "labels": _bytes(ranked, (len(texts), width)),
            "scores": np.ascontiguousarray(np.take_along_axis(scores, order, axis=-1)),
        }


# --- shared -------------------------------------------------------------------------------------


def _function(config: Any) -> Callable[[Floats], Floats]:
    """What turns logits into scores, as the pipeline chooses it."""
    problem = config.problem_type
    if problem == "regression":
        return lambda logits: logits
    if problem == "multi_label_classification" or config.num_labels == 1:
        return _sigmoid
    return _softmax


def _sigmoid(logits: Floats) -> Floats:
    return (1 / (1 + np.exp(-logits))).astype(np.float32, copy=False)


def _softmax(logits: Floats) -> Floats:
    if not logits.size:
        return logits
    grown = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = grown / grown.sum(axis=-1, keepdims=True)
    return result


def _bytes(texts: Sequence[str], shape: tuple[int, ...]) -> NDArray[np.generic]:
    return object_array([text.encode() for text in texts], shape)


def _count(value: JsonValue, name: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise InvalidInput(f"parameter {name} is {value!r}; it must be a number from 1 to {most}")
    return value


def names_in(value: JsonValue, name: str) -> list[str]:
    """A list of texts; from a parameter, which most clients can only make text: JSON, or names
    with commas between them. Raises InvalidInput."""
    if isinstance(value, str):
        try:
            is_json = value.lstrip().startswith("[")
            value = json.loads(value) if is_json else list(value.split(","))
        except ValueError as error:
            raise InvalidInput(f"parameter {name} is no JSON list: {error}") from error
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidInput(f"parameter {name} must be a list of texts")
    return [str(each).strip() for each in value if str(each).strip()]

