"""What a Hugging Face folder says of its model, before anything of it is loaded.

    config.json                     the architecture, the labels
    model.safetensors               the weights, or model.safetensors.index.json and its parts
    tokenizer.json …                the tokenizer
    modules.json, 1_Pooling/…       of sentence-transformers: how tokens become one embedding

Refuses what would run code of the model or fetch something. Imports no framework.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import JsonValue
from shoal.ports import Artifact
from shoal.runtimes.loading import check_exists, one_line, unreadable

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
WEIGHTS: Final = ("model.safetensors", INDEX)
PICKLES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER: Final = "adapter_config.json"
MODULES: Final = "modules.json"

TASKS: Final = (
    "text-classification", "token-classification", "feature-extraction", "fill-mask",
    "zero-shot-classification",
)
# As other servers and model cards call them.
_ALIASES: Final = {
    "sequence-classification": "text-classification", "sentiment-analysis": "text-classification",
    "ner": "token-classification", "text-embedding": "feature-extraction",
    "embeddings": "feature-extraction", "sentence-similarity": "feature-extraction",
}
_HEADS: Final = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
}
# Whose positions begin behind the padding token's number.
_SHIFTED: Final = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer",
                   "xmod", "data2vec-text", "ibert", "luke", "esm")
_VOCABULARIES: Final = ("tokenizer.json", ".model", ".spm", ".tiktoken", "tekken.json")
_MAX_JSON_BYTES: Final = 16 * 1024**2

Fields = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the vectors of a text's tokens become one. mode: mean, cls, max or last. prompt: what is
    put before each text."""

    mode: str = "mean"
    normalised: bool = False
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """task: one of `TASKS`. max_tokens: longer texts are cut off; None: the tokenizer knows.
    own_code: the folder brings code, which is not run."""

    config: Fields
    task: str
    pooling: Pooling
    max_tokens: int | None
    own_code: bool


def read_folder(artifact: Artifact) -> Described:
    """Raises ArtifactMissing, InvalidArtifact with the way out, InvalidSpecification for a task
    that the model was not made for."""
    check_exists(artifact)
    folder = artifact.path
    config = _fields(artifact, folder / CONFIG)
    if config is None:
        raise unreadable(artifact, f"it has no {CONFIG}", "copy the whole folder that "
                         "save_pretrained wrote, with its tokenizer")
    if (folder / ADAPTER).exists():
        raise unreadable(artifact, "it is an adapter to another model", "merge the two: "
                         "model.merge_and_unload().save_pretrained(…)")
    _check_weights(artifact)
    _check_tokenizer(artifact)
    modules = _list(artifact, folder / MODULES)
    own_code = "auto_map" in config or "auto_map" in (
        _fields(artifact, folder / "tokenizer_config.json") or {}
    )
    return Described(
        config, _task(artifact, config, modules is not None), _pooling(artifact, modules or []),
        _max_tokens(artifact, config), own_code,
    )


# --- weights ------------------------------------------------------------------------------------


def _check_weights(artifact: Artifact) -> None:
    folder = artifact.path
    if not any((folder / name).is_file() for name in WEIGHTS):
        pickled = next((name for name in PICKLES if (folder / name).exists()), None)
        reason = (
            "it has no model.safetensors" if pickled is None
            else f"it has only {pickled}, a pickle, and no model.safetensors"
        )
        raise unreadable(artifact, reason, "convert it where you trust it: "
                         "AutoModel….from_pretrained(folder)"
                         ".save_pretrained(folder, safe_serialization=True)")
    if (folder / WEIGHTS[0]).is_file():
        return
    index = _fields(artifact, folder / INDEX) or {}
    parts = index.get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise unreadable(artifact, f"{INDEX} names no files", "copy it again")
    for name in sorted({str(part) for part in parts.values()}):
        if PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise unreadable(artifact, f"{INDEX} names {name!r}, which is no safetensors file "
                             "beside it", "save the model anew with save_pretrained")
        if not (folder / name).is_file():
            raise unreadable(artifact, f"{name} is missing, which {INDEX} names", "copy it again")


def _check_tokenizer(artifact: Artifact) -> None:
    """Without its files transformers makes up a tokenizer that knows no words."""
    names = [path.name for path in artifact.path.iterdir()]
    if not any(name.endswith(_VOCABULARIES) or name.startswith("vocab.") for name in names):
        raise unreadable(artifact, "it has no tokenizer", "add it: AutoTokenizer.from_pretrained(…)"
                         ".save_pretrained(folder)")


# --- the task -----------------------------------------------------------------------------------


def _task(artifact: Artifact, config: Fields, sentences: bool) -> str:
    wish = artifact.options.get("task")
    if wish is not None:
        plain = str(wish).lower().replace("_", "-")
        task = _ALIASES.get(plain, plain)
        if task not in TASKS:
            raise InvalidSpecification(
                f"model {artifact.model!r}: the option task is {wish!r}; it must be one of "
                f"{', '.join(TASKS)}"
            )
        return task
    if sentences:
        return "feature-extraction"
    listed = config.get("architectures")
    name = str(listed[0]) if isinstance(listed, list) and listed else ""
    for head, task in _HEADS.items():
        if name.endswith(head):
            return task
    if name and "For" not in name and not name.endswith("LMHeadModel"):
        return "feature-extraction"
    raise unreadable(
        artifact, f"its architecture {name or '(none)'} is for none of the tasks "
        f"{', '.join(TASKS)}", "set the option task if it is, else serve it as a Python model",
    )


def _max_tokens(artifact: Artifact, config: Fields) -> int | None:
    """What sentence-transformers cuts at, or as many as the model has positions for."""
    told = _fields(artifact, artifact.path / "sentence_bert_config.json") or {}
    length = told.get("max_seq_length")
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if isinstance(positions, int) and config.get("model_type") in _SHIFTED:
        padding = config.get("pad_token_id")
        positions -= (padding if isinstance(padding, int) else 1) + 1
    known = [each for each in (length, positions) if isinstance(each, int) and each > 0]
    return min(known, default=None)


# --- sentence-transformers ----------------------------------------------------------------------


def _pooling(artifact: Artifact, modules: list[Fields]) -> Pooling:
    mode, normalised = "mean", False
    for module in modules:
        kind = str(module.get("type")).rpartition(".")[2]
        if kind == "Pooling":
            mode = _mode(artifact, str(module.get("path") or ""))
        elif kind == "Normalize":
            normalised = True
        elif kind != "Transformer":
            raise unreadable(artifact, f"{MODULES} has a step {kind}, which is not known here",
                             "serve it as a Python model with sentence-transformers")
    prompts = _fields(artifact, artifact.path / "config_sentence_transformers.json") or {}
    named = prompts.get("prompts")
    default = prompts.get("default_prompt_name")
    prompt = named.get(str(default)) if isinstance(named, dict) and default else None
    return Pooling(mode, normalised, str(prompt or ""))


def _mode(artifact: Artifact, path: str) -> str:
    if PurePosixPath(path).name != path:
        raise unreadable(artifact, f"{MODULES} names the folder {path!r}, which is not in it",
                         "save the model anew")
    fields = _fields(artifact, artifact.path / path / CONFIG) or {}
    named = fields.get("pooling_mode")
    if isinstance(named, str):
        modes = [named]
    else:
        modes = [key.removeprefix("pooling_mode_") for key, on in fields.items()
                 if key.startswith("pooling_mode_") and on is True]
    known = {"mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls",
             "max_tokens": "max", "max": "max", "lasttoken": "last"}
    if len(modes) != 1 or modes[0] not in known:
        asked = ", ".join(modes) or "-"
        raise unreadable(artifact, f"{path}/{CONFIG} asks for the pooling {asked}",
                         f"only one of {', '.join(known)} is known; serve it as a Python model")
    return known[modes[0]]


# --- files --------------------------------------------------------------------------------------


def _json(artifact: Artifact, path: Path) -> object:
    """None when there is no such file."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise unreadable(artifact, f"{path.name} is far too large", "copy it again")
        content: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(artifact, f"{path.name}: {one_line(error)}", "copy it again") from error
    return content


def _fields(artifact: Artifact, path: Path) -> Fields | None:
    content = _json(artifact, path)
    if content is not None and not isinstance(content, dict):
        raise unreadable(artifact, f"{path.name} is no JSON object", "copy it again")
    return content


def _list(artifact: Artifact, path: Path) -> list[Fields] | None:
    content = _json(artifact, path)
    if content is None:
        return None
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise unreadable(artifact, f"{path.name} is no list of objects", "copy it again")
    return content
