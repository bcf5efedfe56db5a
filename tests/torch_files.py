"""PyTorch's files as tests load them, and what a load that fails says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.domain.errors import InvalidArtifact
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.pytorch import PyTorchRuntime


def load(path: Path, **artifact: Any) -> LoadedModel:
    return PyTorchRuntime().load(Artifact("m", 1, path, "pytorch", **artifact))


def refused(path: Path, kind: type[Exception] = InvalidArtifact, **artifact: Any) -> str:
    """What a load that fails says, in one line that names the model."""
    with pytest.raises(kind) as raised:
        load(path, **artifact)
    message = str(raised.value)
    assert "\n" not in message
    assert "'m'" in message
    return message
