"""Is this CatBoost file whole? CatBoost itself takes some that are cut off, and answers wrongly.

Layout of the binary form: `TFullModel::Save` of CatBoost's sources: `CBM1`, the core with its
length before it, then, where there are statistics of categories, their tables, each with its
length; what belongs to texts follows, which CatBoost checks. Imports no framework.
"""

from __future__ import annotations

import json
import re
from typing import Final

MAGIC: Final = b"CBM1"

_CUT_OFF: Final = "it is cut off"
_LENGTH_BYTES: Final = 4
_TABLES: Final = b"static_provider"  # named in the core where tables follow
# The JSON form is written with sorted keys; one of these comes first.
_JSON_HEAD: Final = re.compile(rb'\s*\{\s*"(?:ctr_data|features_info|model_info)"\s*:')
_TREES: Final = ("oblivious_trees", "trees")


def is_json_head(head: bytes) -> bool:
    """Does a file that begins so look like CatBoost's JSON?"""
    return _JSON_HEAD.match(head) is not None


def problem_of(data: bytes) -> str | None:
    """What is wrong with the content of a file, as far as it can be told; None when nothing is."""
    return _problem_of_binary(data) if data[: len(MAGIC)] == MAGIC else _problem_of_json(data)


def _problem_of_binary(data: bytes) -> str | None:
    core = _part(data, len(MAGIC))
    if core is None:
        return _CUT_OFF
    if data.find(_TABLES, 0, core) < 0:
        return None
    count, at = _number(data, core), core + _LENGTH_BYTES
    if count is None:
        return _CUT_OFF
    for _ in range(count):
        end = _part(data, at)
        if end is None:
            return _CUT_OFF
        at = end
    return None


def _problem_of_json(data: bytes) -> str | None:
    try:
        model = json.loads(data)
    except (ValueError, RecursionError) as error:
        if data.lstrip()[:1] != b"{":
            return "it is neither CatBoost's binary form nor its JSON"
        return f"it is cut off or damaged ({error})"
    if not isinstance(model, dict) or not isinstance(model.get("features_info"), dict):
        return "it has no features_info"
    trees = next((model[name] for name in _TREES if model.get(name)), None)
    if not isinstance(trees, list):
        return f"it has no trees ({' or '.join(_TREES)})"
    return None


def _part(data: bytes, at: int) -> int | None:
    """Where the part ends whose length stands at `at`; None when it is not all there."""
    length = _number(data, at)
    end = at + _LENGTH_BYTES + (length or 0)
    return None if length is None or end > len(data) else end


def _number(data: bytes, at: int) -> int | None:
    raw = data[at : at + _LENGTH_BYTES]
    return int.from_bytes(raw, "little") if len(raw) == _LENGTH_BYTES else None
