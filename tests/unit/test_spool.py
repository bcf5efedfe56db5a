"""Bodies that come in parts: whole, aligned, and no memory for what has not come."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.dataplane.http.spool import ALIGNMENT, Spool

MIB = 1024**2


@pytest.mark.parametrize("aligned", [0, 1, 15, 16, 100])
@pytest.mark.parametrize("size", [0, 10, 3 * MIB, 9 * MIB])
@pytest.mark.parametrize("known", [True, False])
def test_the_body_is_whole_and_its_tensors_are_aligned(
    aligned: int, size: int, known: bool
) -> None:
    body = np.arange(size // 2, dtype=np.uint16).tobytes()
    spool = Spool(size if known else 0, aligned)
    for start in range(0, size, MIB - 7):
        spool.add(memoryview(body)[start : start + MIB - 7])
    whole = spool.whole()
    assert spool.size == size
    assert whole == body
    assert not whole.readonly
    if aligned < size:
        assert np.frombuffer(whole[aligned:], np.uint8).ctypes.data % ALIGNMENT == 0


def test_memory_is_not_taken_at_the_word_of_who_has_sent_little() -> None:
    spools = [Spool(1024**5, 0) for _ in range(10)]  # a petabyte each
    for spool in spools:
        spool.add(b"x" * MIB)
    assert all(spool.whole() == b"x" * MIB for spool in spools)
