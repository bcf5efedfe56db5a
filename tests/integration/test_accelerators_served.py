"""A server with an accelerator that it was told of: what runs there, and what operators see.

The device is made up; Python models say how much they take of it, and where they were told to be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.served import Served

MODEL = '''
class Model:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    outputs = [{"name": "device", "datatype": "BYTES", "shape": [-1]}]

    def load(self, folder, options):
        self.device = options.get("device", "processor")

    def predict(self, inputs, parameters):
        return {"device": [self.device.encode()]}

    def accelerator_bytes(self):
        return 40_000_000
'''
REQUEST: dict[str, object] = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
BUDGET = 100_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    write(folder / "neither", "")
    write(folder / "preferred", "placement: {preferred_accelerator: cuda}\n")
    for number in range(3):
        write(folder / f"net{number}", "placement: {accelerator: cuda}\n")
    write(folder / "large", "placement: {accelerator: cuda}\naccelerator_bytes: 100000001\n")
    with Served(
        folder, "--accelerator-devices", "cuda:0", "--accelerator-memory", str(BUDGET),
        "--cache-fill", "none", data_dir=tmp_path_factory.mktemp("data"),
    ) as running:
        yield running


def write(folder: Path, description: str) -> None:
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "model.yaml").write_text(description)


def device(server: Served, model: str) -> str:
    answer = server.infer(model, REQUEST).raise_for_status().json()
    return str(answer["outputs"][0]["data"][0])


def test_models_run_where_they_ask_to(server: Served) -> None:
    assert device(server, "neither") == "processor"
    assert device(server, "preferred") == "cuda:0"
    assert device(server, "net0") == "cuda:0"


def test_more_than_fit_take_turns_within_the_budget(server: Served) -> None:
    for _ in range(2):
        for number in range(3):
            assert device(server, f"net{number}") == "cuda:0"
            (pool,) = server.client.status().instances[0].pools
            assert pool.name == "cuda:0"
            assert pool.used_bytes + pool.reserved_bytes <= pool.budget_bytes == BUDGET
    assert server.client.status().totals.evictions >= 3
    assert device(server, "neither") == "processor"


def test_operators_see_what_lies_there(server: Served) -> None:
    device(server, "net0")
    (copy,) = server.client.model("net0").where
    assert (copy.device, copy.accelerator_bytes) == ("cuda:0", 40_000_000)
    assert ("It lies on the accelerator cuda:0 and takes 40,000,000 bytes there."
            in server.client.explain("net0").summary)
    page = httpx2.get(f"{server.management}/metrics").text
    assert 'shoal_accelerator_bytes{device="cuda:0",kind="budget"} 1e+08' in page
    assert 'shoal_accelerator_bytes{device="cuda:0",kind="used"} 8e+07' in page


def test_what_is_larger_than_the_device_is_refused_with_the_setting_to_raise(
    server: Served,
) -> None:
    answer = server.infer("large", REQUEST)
    assert answer.status_code == 503
    assert json.loads(answer.content)["error"] == (
        "model 'large' needs 100,000,001 bytes of the accelerator cuda:0 and its whole budget is "
        "100,000,000 bytes; raise --accelerator-memory or --accelerator-share")
