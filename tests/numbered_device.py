"""A runtime whose models lie on made-up devices: what they take there are numbers in their files.

The rest is real: the loader, the instance and its core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shoal.domain.errors import AcceleratorFull, RuntimeMissing
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact, LoadedModel

if TYPE_CHECKING:
    from shoal.ports import Arrays

KIND = "toy"


class Devices:
    """Bytes by device. missing: the framework installed cannot use them."""

    def __init__(self, **total: int) -> None:
        self.total = {name.replace("_", ":"): size for name, size in total.items()}
        self.used = dict.fromkeys(self.total, 0)
        self.most = dict.fromkeys(self.total, 0)
        self.missing = False

    def take(self, name: str, size: int) -> None:
        if self.used[name] + size > self.total[name]:
            raise AcceleratorFull(f"{name} has too little memory", size)
        self.used[name] += size
        self.most[name] = max(self.most[name], self.used[name])


class NumberedRuntime:
    """A file `{"bytes": 100}`; its model answers with the number of its device, -1: a processor."""

    format = "numbered"
    suffixes: tuple[str, ...] = (".numbered",)
    options: tuple[str, ...] | None = ()
    accelerators: tuple[str, ...] = (KIND,)

    def __init__(self, devices: Devices) -> None:
        self.devices = devices

    def recognise(self, path: Path, head: bytes) -> bool:
        return path.suffix in self.suffixes

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        size = json.loads(artifact.path.read_text())["bytes"]
        if artifact.device is None:
            return NumberedModel(self.devices, None, 0, size)
        if self.devices.missing:
            raise RuntimeMissing(f"the framework installed here knows no {KIND}")
        self.devices.take(artifact.device, size)
        return NumberedModel(self.devices, artifact.device, size, 0)


class PlainRuntime(NumberedRuntime):
    """One that runs on processors alone."""

    format = "plain"
    suffixes: tuple[str, ...] = (".plain",)
    accelerators: tuple[str, ...] = ()


class NumberedModel:
    platform = "numbered"
    max_concurrency = 1
    may_wait = False
    signature = Signature(
        inputs=(TensorSpec("x", "FP32", (-1,)),), outputs=(TensorSpec("on", "INT64", (1,)),))

    def __init__(self, devices: Devices, device: str | None, there: int, here: int) -> None:
        self._devices, self._device = devices, device
        self._there, self._here = there, here

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        number = -1 if self._device is None else int(self._device.rpartition(":")[2])
        return {"on": np.array([number])}

    def size_bytes(self) -> int | None:
        return self._here

    def accelerator_bytes(self) -> int:
        return self._there

    def close(self) -> None:
        if self._device is not None:
            self._devices.used[self._device] -= self._there
