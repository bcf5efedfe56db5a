"""Plays many seeds, or one in detail: `make sim SEEDS=5000`, `make sim SEED=17`.

Ends with status 1 when a promise was broken, and says how to see it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

from shoal.simulation.trial import Trial, play, report

SEEDS = Path(__file__).parent / "seeds.txt"


def kept_seeds() -> dict[int, str]:
    """Seeds that once showed a defect, and which."""
    kept = {}
    for line in SEEDS.read_text().splitlines():
        seed, _, why = line.partition("#")
        if seed.strip():
            kept[int(seed)] = why.strip()
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one alone, and tell of it")
    parser.add_argument("--seeds", type=int, default=1000, help="play so many")
    parser.add_argument("--first", type=int, default=1000, help="beginning with this one")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.seed is not None:
        trial = play(options.seed)
        print(report(trial) if trial.broken else _described(trial))
        sys.exit(bool(trial.broken))
    began = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    broken, events = [], 0
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for trial in pool.imap_unordered(play, seeds, chunksize=8):
            events += trial.events
            if trial.broken:
                broken.append(trial.seed)
                print(report(trial), end="\n\n", flush=True)
    print(f"{options.seeds} seeds, {events:,} events, {time.monotonic() - began:.0f} s: "
          f"{len(broken)} broke a promise{': ' if broken else ''}"
          f"{' '.join(map(str, sorted(broken)))}")
    sys.exit(bool(broken))


def _described(trial: Trial) -> str:
    outcomes = ", ".join(f"{count} {outcome.value}" for outcome, count in trial.outcomes.items())
    return "\n".join((
        f"seed {trial.seed}: every promise was kept", f"{trial.shape}", *trial.happened,
        f"{trial.events:,} events in {trial.seconds:.1f} s, {trial.loads} loads; requests: "
        f"{outcomes}; refused: {trial.refusals}",
    ))


if __name__ == "__main__":
    main()
