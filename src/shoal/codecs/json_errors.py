"""Says in words what is wrong with a JSON document. Knows no protocol.

Only ever runs after a decoder has refused a document, so it may parse it again.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
import orjson

from shoal.domain.errors import InvalidRequest

# What msgspec's decoders raise: DecodeError and its ValidationError, RecursionError for nesting
# deeper than the interpreter's limit, UnicodeDecodeError for text that is not UTF-8.
DECODING_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

_WORDS: Final = {
    "array": "a list",
    "bool": "a boolean",
    "float": "a number",
    "int": "an integer",
    "null": "null",
    "object": "an object",
    "str": "a string",
}
_TYPES: Final = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")


def as_refusal(error: Exception, document: bytes | memoryview) -> InvalidRequest:
    """The answer to a `document` that a decoder refused with one of DECODING_ERRORS."""
    if isinstance(error, msgspec.ValidationError):
        path, problem = describe(error)
        return InvalidRequest(f"{path or 'the request'}: {problem}")
    if isinstance(error, RecursionError):
        return InvalidRequest("the request is not usable JSON: it is nested too deeply")
    try:
        orjson.loads(document)
    except orjson.JSONDecodeError as refused:
        if "depth limit" in str(refused):  # where the decoder's own limit is higher than this one's
            return InvalidRequest("the request is not usable JSON: it is nested too deeply")
        # Its position is exact and has line and column.
        return InvalidRequest(f"the request is not valid JSON: {refused}")
    return InvalidRequest(f"the request is not valid JSON: {error}")


def describe(error: msgspec.ValidationError) -> tuple[str, str]:
    """The path of the wrong value (`inputs[0].shape`; empty for the whole document) and what is
    wrong with it (`expected a list, got a string`)."""
    problem, _, place = str(error).partition(" - at `$")
    problem = _TYPES.sub(_in_words, problem).replace("`", "'")
    return place.rstrip("`").lstrip("."), problem[:1].lower() + problem[1:]


def _in_words(match: re.Match[str]) -> str:
    return " or ".join(_WORDS.get(word, f"'{word}'") for word in match.group(1).split(" | "))
