"""Which accelerators an instance uses, and how much of their memory models may take there.

Loads nothing, and imports no framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shoal.domain.accelerators import PoolBudget, kind_of
from shoal.domain.errors import InvalidSpecification
from shoal.node.accelerating import kinds_of
from shoal.runtimes import cuda
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings
from shoal.settings.groups import AcceleratorSettings

_AUTO: Final = "auto"
_OFF: Final = "off"


def pools_of(
    settings: AcceleratorSettings, workers: int, found: Sequence[cuda.Device] | None = None
) -> tuple[PoolBudget, ...]:
    """One for each that is used, with the part of one of `workers` processes. found: what there is;
    None: what the driver shows. Raises InvalidSpecification for a device that is not there."""
    if settings.devices in ((_OFF,), ()):
        return ()
    known = {each.name: each.total_bytes for each in (
        cuda.devices() if found is None else found)}
    names = tuple(known) if settings.devices == (_AUTO,) else settings.devices
    return tuple(
        PoolBudget(name, _budget(settings, name, known.get(name)) // workers) for name in names
    )


def _budget(settings: AcceleratorSettings, name: str, total_bytes: int | None) -> int:
    kind, _, number = name.partition(":")
    if not kind or not number.isdecimal():
        raise InvalidSpecification(
            f"accelerator.devices: {name!r} names no device; write its kind and its number, such "
            f"as cuda:0, or `{_AUTO}`, or `{_OFF}` alone"
        )
    if settings.memory:
        return settings.memory
    if total_bytes is None:
        raise InvalidSpecification(
            f"accelerator.devices: {name} is not found; look at CUDA_VISIBLE_DEVICES and at what "
            "nvidia-smi lists, or say with --accelerator-memory how much memory it has"
        )
    return round(total_bytes * settings.share)


def kinds_told(settings: Settings, pools: Sequence[PoolBudget]) -> tuple[str, ...]:
    """What other instances and models are told of this one."""
    return settings.mesh.accelerators or tuple(
        dict.fromkeys(kind_of(pool.name) for pool in pools))


def accelerated_formats(runtimes: RuntimeRegistry) -> dict[str, tuple[str, ...]]:
    """By kind, those that can run there."""
    found: dict[str, list[str]] = {}
    for form in runtimes.formats():
        for kind in kinds_of(runtimes.get(form)):
            found.setdefault(kind, []).append(form)
    return {kind: tuple(forms) for kind, forms in found.items()}
