"""Warnings as notes, and reasons in one line."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.domain.errors import ArtifactMissing, InvalidArtifact
from shoal.ports import Artifact
from shoal.runtimes.arrays import datatype_of, text_of, to_protocol
from shoal.runtimes.loading import check_file, one_line, parallel_calls, taking_notes


def test_a_warning_becomes_a_note_once() -> None:
    with taking_notes() as notes:
        for _ in range(3):
            warnings.warn("the ice is thin\nmind your step", stacklevel=1)
    assert notes == ["the ice is thin"]


def test_deprecations_are_no_notes() -> None:
    with taking_notes() as notes:
        warnings.warn("call it otherwise", DeprecationWarning, stacklevel=1)
    assert notes == []


def test_notes_are_kept_when_the_load_fails() -> None:
    def load(kept: list[list[str]]) -> None:
        with taking_notes() as notes:
            kept.append(notes)
            warnings.warn("thin ice", stacklevel=1)
            raise ValueError("cold water")

    kept: list[list[str]] = []
    with pytest.raises(ValueError, match="cold water"):
        load(kept)
    assert kept == [["thin ice"]]


def test_filters_are_as_before() -> None:
    before = (list(warnings.filters), warnings.showwarning)
    with taking_notes():
        pass
    assert (list(warnings.filters), warnings.showwarning) == before


def test_loads_on_two_threads_keep_their_notes_apart() -> None:
    both_inside = threading.Barrier(2, timeout=5)
    one_left = threading.Event()
    heard: dict[str, list[str]] = {}
    before = (list(warnings.filters), warnings.showwarning)

    def load(name: str, first: bool) -> None:
        with taking_notes() as notes:
            both_inside.wait()
            if not first:
                one_left.wait(5)
            warnings.warn(name, stacklevel=1)
        heard[name] = notes
        one_left.set()

    threads = [threading.Thread(target=load, args=args) for args in (("a", True), ("b", False))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert heard == {"a": ["a"], "b": ["b"]}
    assert (list(warnings.filters), warnings.showwarning) == before


def test_other_threads_are_warned_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    with taking_notes() as notes:
        thread = threading.Thread(target=warnings.warn, args=("elsewhere",))
        with warnings.catch_warnings(record=True) as recorded:
            thread.start()
            thread.join(5)
    assert notes == []
    assert [str(item.message) for item in recorded] == ["elsewhere"]


def test_a_reason_is_one_short_line() -> None:
    assert one_line(ValueError("\n  first \nsecond")) == "first"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line("x" * 1000)) == 300


def test_calls_at_once_are_at_least_one() -> None:
    assert parallel_calls(10_000) == 1
    assert parallel_calls(1) >= 1


def test_files_are_checked_before_a_framework_sees_them(tmp_path: Path) -> None:
    empty = tmp_path / "a.bin"
    with pytest.raises(ArtifactMissing, match=r"a\.bin does not exist"):
        check_file(Artifact("m", 1, empty, "f"), (".bin",))
    empty.touch()
    with pytest.raises(InvalidArtifact, match=r"a\.bin is empty"):
        check_file(Artifact("m", 1, empty, "f"), (".bin",))
    with pytest.raises(InvalidArtifact, match=r"is a folder; the format f is a file \(\.bin\)"):
        check_file(Artifact("m", 1, tmp_path, "f"), (".bin",))


@pytest.mark.parametrize(("given", "datatype", "answer"), [
    (np.array(["a", b"\xff"], dtype=object), "BYTES", [b"a", b"\xff"]),
    (np.array(["é"]), "BYTES", ["é".encode()]),
    (np.array(["2026-11-01"], dtype="M8[D]"), "BYTES", [b"2026-11-01"]),
    (np.array([1], dtype=">i4"), "INT32", [1]),
    (np.array([1.5], dtype=np.longdouble), "FP64", [1.5]),
    (np.array([True]), "BOOL", [True]),
])
def test_answers_take_a_datatype_of_the_protocol(
    given: NDArray[np.generic], datatype: str, answer: list[object]
) -> None:
    array = to_protocol(given)
    assert datatype_of(array.dtype) == datatype
    assert array.tolist() == answer
    assert array.dtype.isnative


def test_complex_numbers_have_no_datatype() -> None:
    with pytest.raises(TypeError, match="complex128"):
        to_protocol(np.array([1j]))


def test_text_keeps_its_shape() -> None:
    array = np.array([[b"a"], ["é".encode()]], dtype=object)
    assert text_of(array, "x").tolist() == [["a"], ["é"]]


def test_a_framework_that_restores_warnings_late_on_another_thread_does_no_harm() -> None:
    framework = warnings.catch_warnings()
    with taking_notes():
        framework.__enter__()  # as scikit-learn's forests do while another model is loaded
    framework.__exit__(None, None, None)
    with taking_notes() as notes:
        warnings.warn("heard", UserWarning, stacklevel=1)
    assert notes == ["heard"]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        warnings.showwarning("not for us", UserWarning, "file", 1)
