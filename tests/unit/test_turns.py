"""Long work lets others run."""

from __future__ import annotations

import asyncio
from time import perf_counter

from shoal.node.turns import Turns


async def test_others_run_while_long_work_goes_on() -> None:
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    turns = Turns(turn_s=0.001)
    until = perf_counter() + 0.01
    while perf_counter() < until:
        if turns.is_over():
            await turns.rest()
    task.cancel()
    assert ran >= 2


async def test_a_turn_is_not_over_at_once() -> None:
    turns = Turns(turn_s=60.0)
    assert not turns.is_over()
    await turns.rest()
    assert not turns.is_over()
    assert Turns(turn_s=0.0).is_over()
