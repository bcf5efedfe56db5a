"""Plays a trace by several plans, in as many processes as there are processors.

Must not know what is asked for, nor how figures are shown.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.node.machine import usable_cpus
from shoal.simulation.planning import Plan, simulate
from shoal.simulation.results import Result
from shoal.simulation.traces import Catalogue, Trace

WORTH: Final = 100_000  # requests in all: playing fewer takes no longer than starting processes

_played: tuple[Trace, Catalogue]
"""Of a process of the pool."""


def play_all(trace: Trace, catalogue: Catalogue, plans: Sequence[Plan]) -> Iterator[Result]:
    """What became of the trace by each of the plans, in their order. Raises as `simulate`."""
    processes = min(len(plans), usable_cpus())
    if processes == 1 or len(trace.at) * len(plans) < WORTH:
        for plan in plans:
            yield simulate(trace, catalogue, plan)
        return
    # Not forked: numpy has threads.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (trace, catalogue))
    with pool:
        try:
            yield from pool.map(_play, plans)
        except BrokenProcessPool:
            raise InvalidSpecification(
                "a simulation was ended before it was done, probably for want of memory: ask for "
                "one at a time (--no-compare), or for a shorter trace"
            ) from None


def _begin(trace: Trace, catalogue: Catalogue) -> None:
    global _played
    _played = trace, catalogue
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word


def _play(plan: Plan) -> Result:
    return simulate(*_played, plan)
