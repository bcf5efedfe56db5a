"""Worlds of many seeds: what must always be true is, and what must become true does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.sim.run import kept_seeds

from shoal.simulation.trial import play, report
from shoal.simulation.world import Shape

SEEDS = 200
AT_ONCE = 10


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_promises_are_kept_whatever_fails(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        trial = play(seed)
        assert not trial.broken, report(trial)
        assert trial.events > 100


@pytest.mark.parametrize("seed", [seed for seed in kept_seeds() if seed >= SEEDS])
def test_what_was_broken_once_stays_mended(seed: int) -> None:
    trial = play(seed)
    assert not trial.broken, report(trial)


def test_one_seed_gives_the_same_events_in_every_process() -> None:
    """Though Python's hashes, and so the order of sets, differ between processes."""
    program = (
        "from shoal.simulation.trial import play\n"
        "trials = [play(seed, traced=True) for seed in (3, 8)]\n"
        "print([(each.digest, each.events, each.broken) for each in trials])\n"
    )
    said = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert said[0].count("''") == 2, "both kept their promises"


def test_another_seed_gives_other_events() -> None:
    assert Shape.drawn(1) != Shape.drawn(2)
    assert play(3, traced=True).digest != play(4, traced=True).digest
