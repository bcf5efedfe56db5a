"""A network that was opened, whatever kind of file it came from, as the runtime of PyTorch runs it.

Must not know files, declarations or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from shoal.domain.signature import TensorSpec
from shoal.runtimes.torch_graph import Read

# By PyTorch's name of a type; the others have no counterpart in the Open Inference Protocol.
DATATYPES: Final = {
    "torch.bool": "BOOL", "torch.uint8": "UINT8", "torch.uint16": "UINT16",
    "torch.uint32": "UINT32", "torch.uint64": "UINT64", "torch.int8": "INT8",
    "torch.int16": "INT16", "torch.int32": "INT32", "torch.int64": "INT64",
    "torch.float16": "FP16", "torch.bfloat16": "BF16", "torch.float32": "FP32",
    "torch.float64": "FP64",
}


@dataclass(frozen=True, slots=True)
class Program:
    """call: tensors in the order of `read.inputs`, to a tensor, a sequence of them or a dict of
    them; within `torch.inference_mode`. source: what `read` was read off, for messages. outputs:
    where they are known for certain. size_bytes: of the weights and what is known beside them, in
    host memory; accelerator_bytes: of the weights on an accelerator.
    platform: as clients see it. alone: it may not be called by two threads at once. may_wait: see
    `LoadedModel`. close: gives back what `call` holds.
    """

    call: Callable[..., Any]
    read: Read
    source: str
    size_bytes: int
    platform: str
    outputs: tuple[TensorSpec, ...] = ()
    alone: bool = False
    may_wait: bool = False
    accelerator_bytes: int = 0
    close: Callable[[], None] = lambda: None


def weights_bytes(module: Any) -> int:
    """Of its parameters and buffers; what two of them share counts once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(storages.values())


def drop_weights(module: Any) -> None:
    """Free them now: modules are part of cycles, which the garbage collector finds much later."""
    for each in module.modules():
        for held in ("_parameters", "_buffers"):
            getattr(each, held, {}).clear()
