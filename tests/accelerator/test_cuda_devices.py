"""Networks on a real CUDA device answer as on the processor, and give back what they took.

Skipped where there is no such device, or no PyTorch that can use it. `make bench NAME=accelerator`
does the same with a whole instance and more models than fit.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from shoal.domain.signature import TensorSpec  # noqa: E402 - after what decides to skip
from shoal.ports import Accelerated, Artifact  # noqa: E402
from shoal.runtimes import cuda  # noqa: E402
from shoal.runtimes.pytorch import PyTorchRuntime  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        not cuda.devices() or not torch.cuda.is_available(),
        reason="there is no CUDA device here that PyTorch can use"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
DEVICE = "cuda:0"
WIDE, INNER = 64, 4096
X = TensorSpec("x", "FP32", (-1, WIDE))
CLASS = f'''
import torch


class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear({WIDE}, {INNER}), torch.nn.ReLU(),
                         torch.nn.Linear({INNER}, {WIDE}))
'''


def written(kind: str, folder: Path) -> tuple[Path, Any, tuple[TensorSpec, ...]]:
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(WIDE, INNER), torch.nn.ReLU(), torch.nn.Linear(INNER, WIDE)).eval()
    rows = torch.randn(3, WIDE)
    if kind == "script":
        torch.jit.save(torch.jit.trace(net, rows), str(folder / "model.pt"))
        return folder / "model.pt", net, (X,)
    if kind == "exported":
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(net, (rows,), dynamic_shapes=({0: batch},))
        torch.export.save(program, str(folder / "model.pt2"))
        return folder / "model.pt2", net, ()
    (folder / "model.py").write_text(CLASS)
    torch.save(net.state_dict(), folder / "weights.pt")
    return folder, net, (X,)


@pytest.mark.parametrize("kind", ["script", "exported", "class"])
def test_a_network_answers_there_as_on_the_processor(kind: str, tmp_path: Path) -> None:
    path, net, inputs = written(kind, tmp_path)
    before = torch.cuda.memory_allocated(DEVICE)
    model = PyTorchRuntime().load(
        Artifact("m", 1, path, "pytorch", inputs=inputs, device=DEVICE))
    assert isinstance(model, Accelerated)
    grown = torch.cuda.memory_allocated(DEVICE) - before
    assert model.accelerator_bytes() == pytest.approx(2 * WIDE * INNER * 4, rel=0.05)
    assert grown >= model.accelerator_bytes()
    rows = np.random.default_rng(1).normal(size=(5, WIDE)).astype(np.float32)
    (answer,) = model.predict({model.signature.inputs[0].name: rows}, {}).values()
    with torch.inference_mode():
        right = net(torch.from_numpy(rows)).numpy()
    assert answer.dtype == right.dtype
    np.testing.assert_allclose(answer.astype(np.float32), right, rtol=1e-4, atol=1e-5)
    model.close()
    del model
    gc.collect()
    # What PyTorch keeps for its own sake (workspaces of its libraries) may stay.
    assert torch.cuda.memory_allocated(DEVICE) - before <= max(grown - 2 * WIDE * INNER * 4, 0)


def test_the_driver_and_pytorch_number_devices_alike() -> None:
    for number, device in enumerate(cuda.devices()):
        assert device.name == f"cuda:{number}"
        total = torch.cuda.get_device_properties(number).total_memory
        assert device.total_bytes == pytest.approx(total, rel=0.02)
    assert len(cuda.devices()) == torch.cuda.device_count()


def test_what_is_used_of_a_device_is_told() -> None:
    block = torch.zeros(64 * 1024**2, dtype=torch.uint8, device=DEVICE)
    used = cuda.used_bytes(DEVICE)
    assert used is not None
    assert used >= block.numel()
