"""Which accelerators are used, by the settings and what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.app.accelerators import accelerated_formats, kinds_told, pools_of
from shoal.domain.accelerators import PoolBudget
from shoal.domain.errors import InvalidSpecification
from shoal.runtimes.cuda import Device, devices
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings, read_settings

FOUND = (Device("cuda:0", 1000), Device("cuda:1", 500))


def settings(**given: str) -> Settings:
    return read_settings(
        {f"accelerator.{name}": value for name, value in given.items()}, {}).settings


def budgets(workers: int = 1, **given: str) -> dict[str, int]:
    pools = pools_of(settings(**given).accelerator, workers, FOUND)
    return {pool.name: pool.budget_bytes for pool in pools}


def test_all_that_is_found_is_used_up_to_a_share_of_its_memory() -> None:
    assert budgets() == {"cuda:0": 900, "cuda:1": 450}
    assert budgets(share="0.5") == {"cuda:0": 500, "cuda:1": 250}


def test_a_budget_that_is_given_is_of_each() -> None:
    assert budgets(memory="300") == {"cuda:0": 300, "cuda:1": 300}


def test_workers_share_each() -> None:
    assert budgets(workers=3) == {"cuda:0": 300, "cuda:1": 150}
    assert budgets(workers=3, memory="300") == {"cuda:0": 100, "cuda:1": 100}


def test_only_those_that_are_named_are_used_and_none_where_they_are_off() -> None:
    assert budgets(devices="cuda:1") == {"cuda:1": 450}
    assert budgets(devices="off") == {}


def test_off_in_yaml_is_a_truth_value(tmp_path: Path) -> None:
    file = tmp_path / "shoal.yaml"
    file.write_text("accelerator: {devices: off}\n")
    read = read_settings({}, {}, file).settings
    assert pools_of(read.accelerator, 1, FOUND) == ()


def test_one_that_is_not_found_needs_its_memory_said() -> None:
    assert budgets(devices="toy:7", memory="100") == {"toy:7": 100}
    with pytest.raises(InvalidSpecification, match=r"accelerator\.devices: cuda:2 is not found; "
                                                   r"look at CUDA_VISIBLE_DEVICES"):
        budgets(devices="cuda:2")


@pytest.mark.parametrize("name", ["cuda", "cuda:", "cuda:x", ":0", "auto,cuda:0"])
def test_what_names_no_device_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpecification, match="names no device; write its kind and its num"):
        budgets(devices=name)


def test_kinds_are_told_as_they_are_found_unless_others_are_named() -> None:
    pools = (PoolBudget("cuda:0", 1), PoolBudget("cuda:1", 1))
    assert kinds_told(Settings(), pools) == ("cuda",)
    assert kinds_told(Settings(), ()) == ()
    named = read_settings({"mesh.accelerators": "a100"}, {}).settings
    assert kinds_told(named, pools) == ("a100",)


def test_without_a_driver_nothing_is_asked(tmp_path: Path) -> None:
    assert devices([tmp_path / "nvidiactl"]) == ()


def test_the_formats_that_run_there_are_those_that_say_so() -> None:
    assert set(accelerated_formats(RuntimeRegistry.installed())["cuda"]) == {
        "huggingface", "onnx", "python", "pytorch"}
