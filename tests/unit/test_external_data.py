"""Files beside an artifact that belong to it: named, digested, and no models of their own."""

from __future__ import annotations

from pathlib import Path

from shoal.domain.external_data import may_have_company, names_beside, owners_of
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.children import Children
from shoal.storage.digest import parts_of, read_content

NET = b'<net name="m" version="11"></net>'


def place(folder: Path) -> Path:
    (folder / "digits.xml").write_bytes(NET)
    (folder / "digits.bin").write_bytes(b"weights")
    return folder / "digits.xml"


def test_weights_of_onnx_follow_the_whole_name() -> None:
    assert names_beside("m.onnx") == ("m.onnx.data", "m.onnx_data")
    assert owners_of("m.onnx.data") == owners_of("m.onnx_data") == ("m.onnx",)


def test_weights_of_openvino_have_a_suffix_of_their_own() -> None:
    assert "m.bin" in names_beside("m.xml")
    assert "m.bin" in names_beside("m.XML")
    assert owners_of("m.bin") == ("m.xml",)
    assert owners_of("m.xml") == ()


def test_formats_of_one_file_have_no_company() -> None:
    assert not may_have_company("m.SKOPS")
    assert not may_have_company("m.joblib")
    assert all(map(may_have_company, ("m.onnx", "m.xml", "m.ort", "m")))


def test_weights_are_part_of_the_digest(tmp_path: Path) -> None:
    artifact = place(tmp_path)
    before = read_content(artifact)
    assert before.files_bytes == len(NET) + len(b"weights")
    (tmp_path / "digits.bin").write_bytes(b"WEIGHTS")
    assert read_content(artifact).digest != before.digest


def test_weights_are_among_the_files_that_must_be_trusted(tmp_path: Path) -> None:
    artifact = place(tmp_path)
    assert parts_of(artifact) == [artifact, tmp_path / "digits.bin"]


def test_weights_are_no_entry_of_a_watched_folder(tmp_path: Path) -> None:
    place(tmp_path)
    children = Children(tmp_path, RuntimeRegistry.installed())
    assert list(children.survey(None)) == ["digits.xml"]


def test_a_change_of_the_weights_is_one_of_their_entry(tmp_path: Path) -> None:
    place(tmp_path)
    children = Children(tmp_path, RuntimeRegistry.installed())
    before = children.survey(None)
    (tmp_path / "digits.bin").write_bytes(b"others")
    after = children.survey({"digits.bin"})
    assert [name for name, state in after.items() if state is not None] == ["digits.xml"]
    assert after["digits.xml"] != before["digits.xml"]


def test_a_lone_file_with_that_suffix_is_an_entry(tmp_path: Path) -> None:
    (tmp_path / "firmware.bin").write_bytes(b"what is it?")
    children = Children(tmp_path, RuntimeRegistry.installed())
    assert list(children.survey(None)) == ["firmware.bin"]
