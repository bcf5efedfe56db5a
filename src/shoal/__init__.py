"""Shoal serves very many machine-learning models from little memory.

The names below are imported when they are first used, so that `import shoal` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.client.aio import AsyncClient
    from shoal.client.sync import Client
    from shoal.domain.errors import InvalidInput
    from shoal.domain.model import ModelSpec
    from shoal.domain.signature import TensorSpec

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "InvalidInput", "ModelSpec", "TensorSpec", "__version__"]

_HOMES = {
    "AsyncClient": "shoal.client.aio",
    "Client": "shoal.client.sync",
    "InvalidInput": "shoal.domain.errors",
    "ModelSpec": "shoal.domain.model",
    "TensorSpec": "shoal.domain.signature",
}


if not TYPE_CHECKING:  # to a type checker it would mean that any name exists

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'shoal' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
