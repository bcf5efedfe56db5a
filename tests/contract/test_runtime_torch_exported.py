"""PyTorch's exported programs: what they show, check and refuse."""

from __future__ import annotations

import gc
import logging
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.torch_files import load, refused

from shoal.domain.errors import (
    InvalidInput,
)
from shoal.domain.signature import TensorSpec
from shoal.node.machine import allocated_bytes
from shoal.runtimes.pytorch import PyTorchRuntime
from shoal.runtimes.registry import RuntimeRegistry
from shoal.runtimes.torch_file import Kind, kind_of

REGISTRY = RuntimeRegistry.installed()
ROWS = torch.export.Dim("rows", min=1, max=8)



class Mixed(torch.nn.Module):  # type: ignore[misc]
    """Takes arguments of every kind, gives a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4), persistent=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor, times: int = 1, *, scale: torch.Tensor,
                more: dict[str, torch.Tensor]) -> dict[str, Any]:
        total = (self.weights(x) + y * times + self.shift) * scale
        return {"total": total, "parts": (x[:, :1], [more["ids"] + 1]), "nothing": None, "n": 3}


class Counting(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return x + self.asked


def export(folder: Path, module: torch.nn.Module, inputs: tuple[Any, ...], shapes: Any,
           name: str = "model.pt2", **named: Any) -> Path:
    path = folder / name
    program = torch.export.export(module.eval(), inputs, named, dynamic_shapes=shapes)
    with path.open("wb") as file:
        torch.export.save(program, file)
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mixed]:
    torch.manual_seed(1)
    module, rows = Mixed().eval(), {0: ROWS}
    path = export(  # of two tensors, which one used twice would be one
        tmp_path_factory.mktemp("mixed"), module, (torch.zeros(3, 4), torch.ones(3, 4), 7),
        {"x": rows, "y": rows, "times": None, "scale": None, "more": {"ids": rows}},
        scale=torch.ones(1), more={"ids": torch.zeros(3, dtype=torch.int64)},
    )
    return path, module


def mixed_inputs(rows: int) -> dict[str, Any]:
    given = np.random.default_rng(rows)
    return {
        "x": given.normal(size=(rows, 4)).astype("f4"),
        "y": given.normal(size=(rows, 4)).astype("f4"),
        "scale": np.full(1, 2, "f4"), "more_ids": np.arange(rows),
    }


def test_an_exported_program_shows_what_it_takes_and_gives(mixed: tuple[Path, Mixed]) -> None:
    model = load(mixed[0])
    assert model.signature.inputs == (
        TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4)),
        TensorSpec("scale", "FP32", (1,)), TensorSpec("more_ids", "INT64", (-1,)),
    )
    assert model.signature.outputs == (
        TensorSpec("total", "FP32", (-1, 4)), TensorSpec("parts.output_0", "FP32", (-1, 1)),
        TensorSpec("parts.output_1.output_0", "INT64", (-1,)),
    )
    assert not model.signature.guessed
    assert model.platform == "pytorch_exported"
    assert model.max_concurrency > 0
    model.close()


def test_an_exported_program_answers_as_its_module_at_every_call(mixed: tuple[Path, Mixed]) -> None:
    path, module = mixed
    model = load(path)
    for rows in (3, 1, 8, 3, 1, 8):
        inputs = mixed_inputs(rows)
        answer = model.predict(inputs, {})
        given = {name: torch.from_numpy(each) for name, each in inputs.items()}
        with torch.inference_mode():
            expected = module(given["x"], given["y"], 7, scale=given["scale"],
                              more={"ids": given["more_ids"]})
        np.testing.assert_array_equal(answer["total"], expected["total"].numpy())
        assert answer["parts.output_1.output_0"].tolist() == list(range(1, rows + 1))
    model.close()


@pytest.mark.parametrize(("wrong", "reason"), [
    ({"x": np.zeros((3, 5), "f4")}, "4"),
    ({"y": np.zeros((2, 4), "f4")}, "size"),
    ({"x": np.zeros((3, 4, 1), "f4")}, "'x' is FP32 [3, 4, 1], its program takes FP32 [-1, 4]"),
    ({"x": np.zeros((3, 4), "f8")}, "'x' is FP64 [3, 4], its program takes FP32 [-1, 4]"),
    (mixed_inputs(9), "8"),
])
def test_data_that_a_program_was_not_exported_for_are_the_callers(
    mixed: tuple[Path, Mixed], wrong: dict[str, Any], reason: str
) -> None:
    model = load(mixed[0])
    model.predict(mixed_inputs(3), {})
    for _ in range(2):  # also once the shapes are known
        with pytest.raises(InvalidInput, match="refuses the data") as raised:
            model.predict({**mixed_inputs(3), **wrong}, {})
        assert reason in raised.value.message
        assert "\n" not in raised.value.message
    model.close()


def test_a_type_is_checked_also_for_known_shapes(tmp_path: Path) -> None:
    model = load(export(tmp_path, torch.nn.ReLU(), (torch.zeros(2, 3),), None))
    assert model.signature.inputs == (TensorSpec("input", "FP32", (2, 3)),)
    assert [spec.name for spec in model.signature.outputs] == ["output"]
    model.predict({"input": np.zeros((2, 3), "f4")}, {})
    with pytest.raises(InvalidInput, match="takes FP32"):
        model.predict({"input": np.zeros((2, 3), "i8")}, {})


def test_a_program_that_counts_is_called_by_one_at_a_time(tmp_path: Path) -> None:
    model = load(export(tmp_path, Counting(), (torch.zeros(2),), None))
    assert model.max_concurrency == 1
    answers = [model.predict({"x": np.zeros(2, "f4")}, {})["output"][0] for _ in range(3)]
    assert answers == [1, 2, 3]
    model.close()


def test_a_program_that_writes_into_what_it_made_is_called_by_several(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(inplace=True))
    model = load(export(tmp_path, module, (torch.zeros(1, 2),), None))
    assert model.max_concurrency == len(os.sched_getaffinity(0))


def test_an_exported_program_is_known_by_its_content(tmp_path: Path) -> None:
    path = export(tmp_path, torch.nn.Linear(2, 2), (torch.zeros(1, 2),), None, "model.pt")
    assert kind_of(path) is Kind.EXPORTED
    assert PyTorchRuntime().runs_code(path)
    assert load(path).platform == "pytorch_exported"


def test_declared_names_stand_for_those_of_the_program(mixed: tuple[Path, Mixed]) -> None:
    specs = load(mixed[0]).signature.inputs
    renamed = tuple(TensorSpec(f"INPUT__{i}", each.datatype, each.shape)
                    for i, each in enumerate(specs))
    model = load(mixed[0], inputs=renamed, outputs=(TensorSpec("OUTPUT__0", "FP64", (-1, 4)),))
    inputs = zip(renamed, mixed_inputs(2).values(), strict=True)
    answer = model.predict({spec.name: each for spec, each in inputs}, {})
    assert answer["OUTPUT__0"].dtype == np.float64
    assert answer["OUTPUT__0"].shape == (2, 4)


def test_a_program_of_complex_numbers_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path, torch.nn.Identity(), (torch.zeros(2, dtype=torch.complex64),), None)
    message = refused(path)
    assert "torch.complex64" in message
    assert "wrap it in a module" in message


def test_programs_load_side_by_side(mixed: tuple[Path, Mixed]) -> None:
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(lambda _: load(mixed[0]), range(4)))
        answers = list(threads.map(lambda each: each.predict(mixed_inputs(2), {}), models * 3))
    for answer in answers:
        np.testing.assert_array_equal(answer["total"], answers[0]["total"])


def rewritten(path: Path, folder: Path, change: Callable[[str, bytes], bytes | None],
              **more: bytes) -> Path:
    """The archive with some of its members changed, left out or added."""
    made = folder / path.name
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name, data in more.items():
            new.writestr(f"{old.namelist()[0].partition('/')[0]}/{name}", data)
    return made


@pytest.mark.parametrize("lost", ["weights_config.json", "models/model.json", "weight_0"])
def test_a_program_of_which_a_part_is_lost_is_refused_in_silence(
    mixed: tuple[Path, Mixed], tmp_path: Path, lost: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = rewritten(mixed[0], tmp_path, lambda n, data: None if n.endswith(lost) else data)
    assert "cannot be read as pytorch" in refused(path)
    assert capfd.readouterr() == ("", "")


def test_a_program_of_another_version_says_what_to_do(
    mixed: tuple[Path, Mixed], tmp_path: Path
) -> None:
    path = rewritten(mixed[0], tmp_path, lambda name, data: data.replace(b"0", b"999")
                     if name.endswith("archive_version") else data)
    assert "upgrade torch" in refused(path)


def test_compiled_packages_are_refused_unopened(mixed: tuple[Path, Mixed], tmp_path: Path) -> None:
    path = rewritten(mixed[0], tmp_path, lambda _, data: data,
                     **{"data/aotinductor/model/lib.so": b"\x7fELF"})
    assert kind_of(path) is Kind.COMPILED
    assert PyTorchRuntime().runs_code(path)
    assert "AOTInductor" in refused(path)


def test_what_pytorch_logs_elsewhere_is_still_logged(
    mixed: tuple[Path, Mixed], caplog: pytest.LogCaptureFixture
) -> None:
    load(mixed[0])
    logging.getLogger("torch.export").warning("said by somebody else")
    assert "said by somebody else" in caplog.text


def test_a_closed_program_gives_its_weights_back_at_once(tmp_path: Path) -> None:
    path = export(tmp_path, torch.nn.Linear(3000, 1000), (torch.zeros(1, 3000),), None)
    model = load(path)
    model.predict({"input": np.zeros((1, 3000), "f4")}, {})
    size = model.size_bytes()
    assert size is not None
    assert 12_000_000 < size < 12_200_000
    gc.collect()  # what other tests left is not to count
    held = allocated_bytes()
    model.close()
    assert held - allocated_bytes() > 11_000_000
