"""An open loop: requests are due at fixed times, whether or not earlier ones are answered.

A latency counts from when its request was due, not from when it could be sent: a server that stops
for a second delays everything due in it, as it would with clients who do not know of each other
(what closed loops leave out is called coordinated omission).
"""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Sequence
from time import perf_counter

from benchmarks.channels import PATIENCE_S, Channel, Unanswered, polled


def latencies_ms(channels: Sequence[Channel], rate: float, seconds: float) -> list[float]:
    """Of `rate` requests a second, evenly spaced, for so long; sorted."""
    total = max(round(rate * seconds), 1)
    taken: list[float] = []
    due: deque[float] = deque()
    gc.disable()
    try:
        with polled(channels) as (poll, by_number):
            free = deque(by_number.values())
            start = perf_counter() + 1e-3
            planned = 0
            while len(taken) < total:
                now = perf_counter()
                while planned < total and start + planned / rate <= now:
                    due.append(start + planned / rate)
                    planned += 1
                while due and free:
                    channel = free.popleft()
                    channel.send((due.popleft(),))
                    if channel.room:
                        free.append(channel)
                for number, _ in poll.poll(0):
                    channel = by_number[number]
                    had_room = channel.room > 0
                    answered = channel.receive()
                    now = perf_counter()
                    taken += [(now - mark) * 1e3 for mark in answered]
                    if answered and not had_room:
                        free.append(channel)
                if now > start + seconds + PATIENCE_S:
                    raise Unanswered(f"{total - len(taken)} requests are not answered")
    finally:
        gc.enable()
    return sorted(taken)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the sorted values do not exceed: nearest rank, never in between."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
