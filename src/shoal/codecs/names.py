"""What could be the name or version of a model in a request, whatever protocol carried it.

So that nothing else is looked up, logged or kept.
"""

from __future__ import annotations

from typing import Final

from shoal.domain.errors import ModelNotFound, VersionNotFound
from shoal.domain.model import MODEL_NAME

_SHOWN: Final = 100  # characters of a name that no model can have
_MOST_DIGITS: Final = 18


def model_name(name: str) -> str:
    """`name` itself. Raises ModelNotFound for what no model can be called."""
    if not MODEL_NAME.fullmatch(name):
        raise ModelNotFound(
            f"there is no model {shown(name)!r}; names have 1 to 254 letters, digits, '_', '.' "
            "and '-'"
        )
    return name


def model_version(version: str) -> int:
    """Raises VersionNotFound for what is no number."""
    if not (version.isascii() and version.isdigit()) or len(version) > _MOST_DIGITS:
        raise VersionNotFound(
            f"there is no version {shown(version)!r}; versions are numbers: 1, 2, 3, …"
        )
    return int(version)


def shown(text: str) -> str:
    """What a message shows of what a client sent."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
