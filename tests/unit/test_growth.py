"""By how much this process grows."""

from __future__ import annotations

import mmap

from shoal.node.growth import Growing

MIB = 1024**2


def test_what_was_held_for_a_while_only_counts_for_the_peak() -> None:
    growing = Growing()
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for page in range(0, 64 * MIB, 4096):
            memory[page] = 1
    grown = growing.until_now()
    assert grown.peak_bytes is not None
    assert grown.peak_bytes > 60 * MIB
    assert grown.resident_bytes < 8 * MIB


def test_each_peak_begins_anew() -> None:
    test_what_was_held_for_a_while_only_counts_for_the_peak()
    peak = Growing().until_now().peak_bytes
    assert peak is not None
    assert peak < 8 * MIB
