"""What the core expects copies to take, and their loads meanwhile."""

from __future__ import annotations

import pytest

from shoal.core.sizes import MAX_PEAK_RATIO, Sizes
from shoal.domain.model import ModelSpec, Revision, make_revision

MIB = 1024**2


def revision(content: str, files_bytes: int = MIB, memory_bytes: int | None = None) -> Revision:
    spec = ModelSpec(name="m", uri="/m", memory_bytes=memory_bytes)
    return make_revision(
        spec, version=1, uri="/m", format="onnx", artifact_digest=f"sha256:{content}",
        files_bytes=files_bytes)


def learnt(*peaks: float, size_bytes: int = 4 * MIB) -> float:
    """The ratio of peak to size that follows from loads with such ratios."""
    sizes, known = Sizes(), revision("known")
    sizes.remember(known.artifact_digest, size_bytes)
    for peak in peaks:
        sizes.peaked(known, size_bytes, round(peak * size_bytes))
    return sizes.peak(known) / size_bytes


def test_nothing_is_known_of_peaks_at_first() -> None:
    assert learnt() == 1


def test_a_higher_peak_is_learnt_quickly_and_a_lower_one_slowly() -> None:
    up, down = learnt(5), learnt(5, 1)
    assert up == pytest.approx(3, abs=0.01)
    assert down == pytest.approx(2.6, abs=0.01)


def test_a_peak_is_never_less_than_the_copy_nor_without_bounds() -> None:
    assert learnt(0.2, 0.1) == 1
    assert learnt(*[1000] * 20) == pytest.approx(MAX_PEAK_RATIO, abs=0.01)


def test_small_copies_teach_no_peaks() -> None:
    assert learnt(5, size_bytes=100_000) == 1


def test_peaks_of_one_format_say_nothing_of_another() -> None:
    sizes, other = Sizes(), revision("other")
    sizes.peaked(other, 4 * MIB, 20 * MIB)
    foreign = make_revision(
        ModelSpec(name="n", uri="/n"), version=1, uri="/n", format="sklearn",
        artifact_digest="sha256:n", files_bytes=MIB)
    assert sizes.peak(other) > sizes.predict(other).size_bytes
    assert sizes.peak(foreign) == sizes.predict(foreign).size_bytes


def test_a_declared_size_is_taken_at_its_word_while_loading_too() -> None:
    sizes, declared = Sizes(), revision("declared", memory_bytes=5 * MIB)
    sizes.peaked(declared, 5 * MIB, 50 * MIB)
    assert sizes.peak(declared) == 5 * MIB
