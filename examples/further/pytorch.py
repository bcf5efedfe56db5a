"""One network of PyTorch in three forms: an exported program, and its class with weights of two
kinds. Knows nothing of Shoal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from examples.cases import Case, place, question, reply
from examples.network_class.model import DigitsNet

SEED: Final = 7
ROWS: Final = 3
CLASS: Final = Path(__file__).parents[1] / "network_class" / "model.py"
INPUTS: Final = [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]


def make(folder: Path) -> list[Case]:
    images, digits = _digits()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = _trained(images, digits)
    asked = images[:ROWS].clone()  # a slice would be saved with all that it is a slice of
    with torch.inference_mode():
        answer = {name: each.numpy() for name, each in network(asked).items()}
    rows = torch.export.Dim("rows")
    program = torch.export.export(network, (asked,), dynamic_shapes=({0: rows},))
    torch.export.save(program, place(folder, "digits-exported.pt2"))
    torch.set_num_threads(threads)
    request, expect = question(image=asked.numpy()), reply(**answer)
    return [
        Case("digits-exported", "pytorch", "digits-exported.pt2", request, expect),
        _with_class(folder, "digits-class", network, request, expect),
        _with_class(folder, "digits-state", network, request, expect),
    ]


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return (torch.from_numpy(pixels.reshape(-1, 1, 8, 8).astype("f4") / 16),
            torch.from_numpy(digits))


def _trained(images: torch.Tensor, digits: torch.Tensor) -> DigitsNet:
    torch.manual_seed(SEED)
    network = DigitsNet()
    steps = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(15):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(network(images)["scores"], digits).backward()
        steps.step()
    network.eval()
    return network


def _with_class(folder: Path, name: str, network: DigitsNet, request: dict[str, Any],
                expect: dict[str, Any]) -> Case:
    """A folder with the class, its weights, and what it takes."""
    from safetensors.torch import save_file

    shutil.copyfile(CLASS, place(folder, f"{name}/model.py"))
    if name == "digits-state":
        torch.save(network.state_dict(), place(folder, f"{name}/weights.pt"))
    else:
        save_file(network.state_dict(), place(folder, f"{name}/weights.safetensors"))
    place(folder, f"{name}/model.yaml").write_text(yaml.safe_dump({"inputs": INPUTS}))
    return Case(name, "pytorch", name, request, expect, inputs=INPUTS)
