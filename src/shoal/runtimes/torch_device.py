"""Imports PyTorch, and puts its networks onto accelerators: whether it can, what they take, what
lacks room.

Knows no files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from shoal.domain.accelerators import kind_of
from shoal.domain.errors import AcceleratorFull, RuntimeMissing
from shoal.ports import Artifact
from shoal.runtimes.cuda import KIND, number_of
from shoal.runtimes.loading import import_framework, no_room, one_line

if TYPE_CHECKING:
    from types import ModuleType

KINDS: Final = (KIND,)
_BLOCK_BYTES: Final = 512  # to which PyTorch's allocator rounds up
_UNITS: Final = {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_TRIED: Final = re.compile(r"Tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")


def import_torch(extra: str, artifact: Artifact) -> ModuleType:
    """With the threads that a call of the artifact may use. Raises RuntimeMissing."""
    torch = import_framework("torch", extra, artifact)
    if torch.get_num_threads() != artifact.threads:
        torch.set_num_threads(artifact.threads)
    return torch


def check_device(torch: ModuleType, artifact: Artifact) -> None:
    """Raises RuntimeMissing where this PyTorch cannot use the device of the artifact."""
    device = artifact.device
    if device is None:
        return
    if not torch.cuda.is_available():
        raise RuntimeMissing(
            f"model {artifact.model!r} is to run on {device}, and the torch installed here "
            f"({torch.__version__}) cannot use it; install one that is built for CUDA and for this "
            "driver, or let the model run on the processor: placement.preferred_accelerator "
            "instead of placement.accelerator"
        )
    if number_of(device) >= torch.cuda.device_count():
        raise RuntimeMissing(
            f"model {artifact.model!r} is to run on {device}, and torch sees "
            f"{torch.cuda.device_count()} devices; look at CUDA_VISIBLE_DEVICES and the setting "
            "accelerator.devices"
        )
    # Convolutions are computed with 10 bits of the fraction by default, unlike on a processor.
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def finding_room(torch: ModuleType, artifact: Artifact) -> Iterator[None]:
    """Raises AcceleratorFull where the device has too little memory for what is done within."""
    device = artifact.device
    if device is None:
        yield
        return
    before = torch.cuda.memory_allocated(device)
    try:
        yield
    except RuntimeError as error:
        if not lacks_room(torch, error):
            raise
        tried = _TRIED.search(str(error))
        lacked = float(tried[1]) * _UNITS[tried[2]] if tried else 0.0
        needed = max(torch.cuda.memory_allocated(device) - before, 0) + round(lacked)
        raise no_room(artifact, one_line(error), needed) from error


def lacks_room(torch: ModuleType, error: BaseException) -> bool:
    """Is it for want of a device's memory? Parts of PyTorch say so by the text alone."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "CUDA out of memory" in str(error))


def no_room_for_a_call(model: str, device: str | None) -> AcceleratorFull:
    return AcceleratorFull(
        f"model {model!r}: the accelerator {device} has too little memory free for this request; "
        "send fewer rows at once, or lower accelerator.share so that models leave more of it"
    )


def bytes_on(tensors: Iterable[Any], device: str | None) -> int:
    """What these take there; what two of them share counts once. device: None: no accelerator."""
    if device is None:
        return 0
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors if str(tensor.device) == device
    }
    return sum(-(-size // _BLOCK_BYTES) * _BLOCK_BYTES for size in storages.values())


def allocated_bytes(device: str) -> int | None:
    """What PyTorch holds there for this process; None: it is not used, or cannot tell."""
    torch = sys.modules.get("torch")
    if torch is None or kind_of(device) != KIND or not hasattr(torch, "cuda"):
        return None
    if not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.memory_allocated(device))


def give_back(torch: ModuleType, device: str | None) -> None:
    """What PyTorch keeps for later, so that others may have it."""
    if device is not None:
        torch.cuda.empty_cache()
