"""Tells which files of a model's repository nobody needs who serves it.

Authors keep the same weights in several forms beside each other, for other frameworks; read by all,
a model of one gigabyte is one of ten. Looks at names alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from shoal.storage.files import ignored

_FOR_PEOPLE: Final = re.compile(
    r"(?i)(readme|licen[cs]e|notice|changelog|contributing|use_policy|model_card)(\..*)?"
    r"|.*\.(md|rst|png|jpe?g|gif|svg|webp|pdf|mp4)")
_OF_TRAINING: Final = re.compile(
    r"training_args\.bin|trainer_state\.json|optimizer\.(pt|bin)|scheduler\.(pt|bin)"
    r"|rng_state.*\.pth|events\.out\.tfevents\..*")

_SAFE: Final = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_SAME_WEIGHTS: Final = re.compile(
    r"pytorch_model.*\.bin(\.index\.json)?|tf_model.*\.h5(\.index\.json)?"
    r"|flax_model.*\.msgpack(\.index\.json)?|rust_model\.ot|model\.ckpt.*|.*\.gguf"
    r"|consolidated.*\.(pth|safetensors)|model\.fp(16|32)\.safetensors")
_SAME_MODELS: Final = ("onnx", "openvino", "coreml", "original", "gguf", "tflite", "runs")
"""Folders beside safetensors: the same model exported. Each has a URI of its own."""


def left_out(names: Collection[str]) -> set[str]:
    """Of the files of a folder, relative names with `/`, those that are no part of its model:

    - hidden ones and what `files.ignored` names anywhere;
    - what is written for people, pictures, and what training left behind;
    - weights in other forms and exported copies beside `model.safetensors` (or its parts).
    """
    safe = {_folder(name) for name in names if _SAFE.fullmatch(_last(name))}
    return {name for name in names if _superfluous(name) or _doubled(name, safe)}


def _superfluous(name: str) -> bool:
    last = _last(name)
    return (any(ignored(part) for part in name.split("/"))
            or _FOR_PEOPLE.fullmatch(last) is not None or _OF_TRAINING.fullmatch(last) is not None)


def _doubled(name: str, safe: set[str]) -> bool:
    folder = _folder(name)
    if folder in safe and _SAME_WEIGHTS.fullmatch(_last(name)):
        return True
    parts = name.split("/")
    return any(part in _SAME_MODELS and "/".join(parts[:depth]) in safe
               for depth, part in enumerate(parts[:-1]))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]
