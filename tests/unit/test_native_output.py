"""What other code prints while a framework is imported."""

from __future__ import annotations

import os
import re
import threading

import pytest

from shoal.runtimes.native_output import without_lines

NOISE = re.compile(rb"^noise")


def test_unwanted_lines_are_dropped_and_all_others_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with without_lines(NOISE):
        os.write(2, b"first\nnoi")
        os.write(2, b"se 1\nsecond\n")
        other = threading.Thread(target=os.write, args=(2, b"of another thread\nnoise 2\n"))
        other.start()
        other.join()
        os.write(2, b"half a line")
    os.write(2, b"\nnoise afterwards\n")
    said = "first\nsecond\nof another thread\nhalf a line\nnoise afterwards\n"
    assert capfd.readouterr().err == said


def test_an_error_inside_gives_standard_error_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError), without_lines(NOISE):
        raise ImportError
    os.write(2, b"noise\n")
    assert capfd.readouterr().err == "noise\n"


def test_without_standard_error_nothing_is_to_be_kept_off_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(descriptor: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    with without_lines(NOISE):
        pass
