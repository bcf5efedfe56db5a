"""Counts of one version of a model, as Triton's statistics extension tells them: of an instance,
and of several together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from time import perf_counter, time

from shoal.node import questions


@dataclass(slots=True)
class Joined:
    """Requests that ran as one call of the model. calls: of the model. answered: requests. Seconds
    are sums: `calls_s` over the calls, `requests_s` over the requests, each of which counts the
    whole call that it was part of."""

    calls: int = 0
    answered: int = 0
    calls_s: float = 0.0
    requests_s: float = 0.0


@dataclass(slots=True)
class Statistics:
    """Survives unloads of the version's copy. Seconds are sums: `success_s` and `fail_s` of whole
    requests; the others of the parts of successful ones, `queue_s` with waiting for loads.
    joined: by how many requests ran as one."""

    successes: int = 0
    success_s: float = 0.0
    queue_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    fails: int = 0
    fail_s: float = 0.0
    last_at: float = 0.0  # perf_counter
    reported_at: float = float("-inf")  # the last failure in the journal
    joined: dict[int, Joined] = field(default_factory=dict)

    @property
    def encode_s(self) -> float:
        """What is left of the whole: making the answers."""
        return max(self.success_s - self.queue_s - self.decode_s - self.compute_s, 0.0)

    def count_joined(self, calls: int, answered: int, seconds: float) -> None:
        """So many requests ran as one, in `seconds`; `answered` of them were still waited for."""
        entry = self.joined.setdefault(calls, Joined())
        entry.calls += 1
        entry.answered += answered
        entry.calls_s += seconds
        entry.requests_s += answered * seconds

    def single(self) -> tuple[int, float]:
        """Requests that ran alone, and the seconds that they took in the model."""
        joined = self.joined.values()
        count = self.successes - sum(entry.answered for entry in joined)
        seconds = self.compute_s - sum(entry.requests_s for entry in joined)
        return (count, max(seconds, 0.0)) if count > 0 else (0, 0.0)


def told(model: str, version: int, counted: Statistics) -> questions.Counted:
    """For other instances, whose `perf_counter` is another."""
    last_at = time() - (perf_counter() - counted.last_at) if counted.last_at else 0.0
    return questions.Counted(
        model, version, counted.successes, counted.success_s, counted.queue_s, counted.decode_s,
        counted.compute_s, counted.fails, counted.fail_s, last_at,
        {size: questions.Joined(each.calls, each.answered, each.calls_s, each.requests_s)
         for size, each in counted.joined.items()},
    )


def summed(
    mine: Mapping[tuple[str, int], Statistics], others: Iterable[questions.Counted]
) -> dict[tuple[str, int], Statistics]:
    """By model and version. mine: of this instance; stays as it is."""
    found = dict(mine)
    copied = set()
    for each in others:
        key = each.model, each.version
        if key not in copied:
            copied.add(key)
            found[key] = deepcopy(found.get(key, Statistics()))
        _add(found[key], each)
    return found


def _add(sums: Statistics, each: questions.Counted) -> None:
    sums.successes += each.successes
    sums.success_s += each.success_s
    sums.queue_s += each.queue_s
    sums.decode_s += each.decode_s
    sums.compute_s += each.compute_s
    sums.fails += each.fails
    sums.fail_s += each.fail_s
    if each.last_at:
        sums.last_at = max(sums.last_at, perf_counter() - (time() - each.last_at))
    for size, more in each.joined.items():
        joined = sums.joined.setdefault(size, Joined())
        joined.calls += more.calls
        joined.answered += more.answered
        joined.calls_s += more.calls_s
        joined.requests_s += more.requests_s
