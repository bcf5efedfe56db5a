"""ModelMesh's rules for its cache, written anew from how it is known to behave: to compare with.

For comparison only, not a part of what Shoal does. Each instance decides alone, from records of the
others that are up to 40 s old; copies are evicted in the order of their last use; a load is refused
while the oldest copy of a full cache is young. `fixed` mends what reading its source showed to be
defects: the shortlist of a placement judges candidates by the figures of the best one, and a model
in constant use never gets a second copy. Left out: migrations at shutdown, types, replica sets,
loads ahead of use, and that a refused load is tried on two more instances, whose caches are mostly
of like age.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from random import Random
from typing import Final

from shoal.simulation.results import Counts, Result
from shoal.simulation.traces import Catalogue, Trace

DEFAULT_BYTES: Final = 1_000_000  # by which a model is taken until it was loaded once
CHURN_S: Final = 300.0
RECORD_S: Final = 40.0  # an instance's record is written so often, …
RECORD_LEAST_S: Final = 2.0  # … and on changes, but no more often than this
RATE_TASK_S: Final = 10.0
JANITOR_S: Final = 360.0
SCALE_UP_RPM: Final = 2000.0
SECOND_USE_S: Final = (420.0, 2400.0)
LONG_AGE_S: Final = 20 * 3600.0
PATIENCE_S: Final = 60.0


@dataclass(slots=True)
class _Record:
    """An instance as the others see it. oldest: last use of its least recently used copy."""

    at: float = -1e9
    oldest: float = 0.0
    free: int = 0
    count: int = 0
    full: bool = False


@dataclass(slots=True)
class _Instance:
    number: int
    capacity: int
    used: int = 0
    lru: OrderedDict[int, float] = field(default_factory=OrderedDict)  # model: last use
    sizes: dict[int, int] = field(default_factory=dict)
    queue: deque[int] = field(default_factory=deque)  # requests wait for these …
    later: deque[int] = field(default_factory=deque)  # … and not for these
    loading: int = 0
    record: _Record = field(default_factory=_Record)
    uses: dict[int, int] = field(default_factory=dict)  # since the last look at rates


class ModelMesh:
    """memory_bytes: of each instance."""

    def __init__(
        self, catalogue: Catalogue, instances: int, memory_bytes: int, *, fixed: bool = False,
        loaders: int = 2, seed: int = 1,
    ) -> None:
        self._catalogue = catalogue
        self._fixed = fixed
        self._loaders = loaders
        self._chance = Random(seed)
        self._instances = [_Instance(number, memory_bytes) for number in range(instances)]
        self._memory_bytes = memory_bytes
        self._copies: dict[int, dict[int, bool]] = {}  # model: instance: is it ready?
        self._known: dict[int, int] = {}  # sizes of models that were loaded once
        self._waiting: dict[tuple[int, int], list[float]] = {}
        self._ends: list[tuple[float, int, int]] = []
        self._first_use: dict[int, float] = {}
        self._turn = 0
        self._counts = Counts(0.0)
        self.now = 0.0

    def play(self, trace: Trace, policy: str, warm_up: float = 0.5) -> Result:
        """All of it, from empty caches on."""
        self._counts = Counts(warm_up * trace.span_s)
        next_rates, next_janitor = RATE_TASK_S, JANITOR_S
        for at, model in zip(trace.at.tolist(), trace.models.tolist(), strict=True):
            while min(next_rates, next_janitor) <= at:
                due = min(next_rates, next_janitor)
                self._run_loads(due)
                self.now = due
                if due == next_rates:
                    self._look_at_rates()
                    next_rates += RATE_TASK_S
                else:
                    self._clean_up()
                    next_janitor += JANITOR_S
            self._run_loads(at)
            self.now = at
            self._request(model)
        self._run_loads(trace.span_s + PATIENCE_S)
        copies = sum(ready for those in self._copies.values() for ready in those.values())
        return self._counts.result(policy, len(self._instances), self._memory_bytes, copies)

    # --- requests -------------------------------------------------------------------------------

    def _request(self, model: int) -> None:
        copies = self._copies.get(model)
        ready = [each for each, is_ready in copies.items() if is_ready] if copies else []
        if ready:
            self._turn += 1
            self._use(self._instances[ready[self._turn % len(ready)]], model)
            if self.now >= self._counts.since:
                self._counts.hits += 1
            return
        if copies:
            where = next(iter(copies))
        else:
            entry = self._chance.randrange(len(self._instances))
            where = self._place(entry, without=())
            if not self._begin(self._instances[where], model, urgent=True):
                self._counts.refuse(self.now)
                return
        self._waiting.setdefault((where, model), []).append(self.now)

    def _use(self, instance: _Instance, model: int) -> None:
        instance.lru[model] = self.now
        instance.lru.move_to_end(model)
        instance.uses[model] = instance.uses.get(model, 0) + 1

    # --- placement ------------------------------------------------------------------------------

    def _publish(self, instance: _Instance) -> _Record:
        record = instance.record
        if self.now - record.at >= RECORD_LEAST_S:
            free = instance.capacity - instance.used
            oldest = next(iter(instance.lru.values()), self.now)
            is_full = free < max(min(DEFAULT_BYTES * self._loaders, instance.capacity // 20),
                                 DEFAULT_BYTES)
            news = (len(instance.lru), is_full) != (record.count, record.full)
            if news or self.now - record.at >= RECORD_S:
                instance.record = record = _Record(
                    self.now, oldest, free, len(instance.lru), is_full)
        return record

    def _place(self, entry: int, without: tuple[int, ...]) -> int:
        """The instance that is to load, as the one at `entry` sees it."""
        records = {each.number: self._publish(each) for each in self._instances
                   if each.number not in without}
        ranked = sorted(records, key=lambda each: (
            records[each].full, records[each].oldest if records[each].full else 0.0,
            records[each].count, -records[each].free, each))
        best = records[ranked[0]]
        if best.full:
            age = self.now - best.oldest
            limit = max(45.0, 0.1 * age)
            chosen = [each for each in ranked if self._judged(records[each], best).oldest
                      <= best.oldest + limit and records[each].full]
        else:
            chosen = [each for each in ranked
                      if self._judged(records[each], best).free >= best.free / 4
                      and (records[each].count < 10
                           or records[each].count <= 1.25 * max(best.count, 1))
                      and not records[each].full]
        if entry in chosen:
            return entry
        return self._chance.choice(chosen or [ranked[0]])

    def _judged(self, record: _Record, best: _Record) -> _Record:
        """As shipped, candidates are judged by the best one's figures."""
        return record if self._fixed else best

    # --- loads ----------------------------------------------------------------------------------

    def _begin(self, instance: _Instance, model: int, *, urgent: bool) -> bool:
        """Queue a load there; False: the cache turns over too quickly."""
        size = self._known.get(model, DEFAULT_BYTES)
        oldest = next(iter(instance.lru.values()), None)
        full = instance.used + size > instance.capacity
        if size > instance.capacity or (
                full and oldest is not None and self.now - oldest < CHURN_S):
            return False
        self._copies.setdefault(model, {})[instance.number] = False
        self._book(instance, model, size)
        (instance.queue if urgent else instance.later).append(model)
        self._load_next(instance)
        return True

    def _book(self, instance: _Instance, model: int, size: int) -> None:
        instance.used += size - instance.sizes.get(model, 0)
        instance.sizes[model] = size
        self._first_use.setdefault(model, self.now)
        instance.lru[model] = self.now
        instance.lru.move_to_end(model)
        self._evict(instance, keep=model)

    def _evict(self, instance: _Instance, keep: int) -> None:
        for model in list(instance.lru):
            if instance.used <= instance.capacity:
                return
            if model != keep and self._copies[model].get(instance.number):
                self._drop(instance, model)
                self._counts.evicted(self.now)

    def _drop(self, instance: _Instance, model: int) -> None:
        del instance.lru[model]
        instance.used -= instance.sizes.pop(model)
        instance.uses.pop(model, None)
        copies = self._copies[model]
        del copies[instance.number]
        if not copies:
            del self._copies[model]
            self._first_use.pop(model, None)

    def _load_next(self, instance: _Instance) -> None:
        """What a request waits for goes first: everything but further copies."""
        while (instance.queue or instance.later) and instance.loading < self._loaders:
            model = (instance.queue or instance.later).popleft()
            instance.loading += 1
            seconds = float(self._catalogue.load_s[model])
            heapq.heappush(self._ends, (self.now + seconds, instance.number, model))

    def _run_loads(self, until: float) -> None:
        while self._ends and self._ends[0][0] <= until:
            self.now, number, model = heapq.heappop(self._ends)
            instance = self._instances[number]
            instance.loading -= 1
            size = int(self._catalogue.sizes[model])
            self._known[model] = size
            self._copies[model][number] = True
            self._counts.loaded(size, self.now)
            for at in self._waiting.pop((number, model), ()):
                if self.now - at > PATIENCE_S:
                    self._counts.refuse(at)
                else:
                    self._counts.answered(at, self.now)
            self._book(instance, model, size)
            if size > instance.capacity:
                self._drop(instance, model)
            self._load_next(instance)

    # --- copies ---------------------------------------------------------------------------------

    def _look_at_rates(self) -> None:
        """Every 10 s: more copies of what is asked for much, and second ones."""
        free = sum(each.capacity - each.used for each in self._instances)
        roomy = free >= 0.1 * sum(each.capacity for each in self._instances)
        for instance in self._instances:
            uses, instance.uses = instance.uses, {}
            for model, count in uses.items():
                copies = self._copies.get(model, {})
                if len(copies) >= len(self._instances) or not copies.get(instance.number):
                    continue
                rpm = count * 60.0 / RATE_TASK_S
                most = max(len(self._instances) // 3, 1)
                wanted = min(int(rpm / SCALE_UP_RPM), most)
                if not wanted and len(copies) == 1 and self._wants_second(
                        instance, model, roomy=roomy):
                    wanted = 1
                for _ in range(wanted):
                    without = tuple(self._copies[model])
                    if len(without) >= len(self._instances):
                        break
                    where = self._place(instance.number, without)
                    self._begin(self._instances[where], model, urgent=False)

    def _wants_second(self, instance: _Instance, model: int, *, roomy: bool) -> bool:
        """Was it used 7 to 40 minutes before? As shipped, each use moves that mark, so what is used
        more often never was."""
        oldest = next(iter(instance.lru.values()), self.now)
        if not roomy and self.now - oldest <= LONG_AGE_S:
            return False
        since = self.now - self._first_use.get(model, self.now)
        if not self._fixed:
            self._first_use[model] = self.now
        return SECOND_USE_S[0] <= since and (self._fixed or since <= SECOND_USE_S[1])

    def _clean_up(self) -> None:
        """Every 6 minutes, where memory is short: second copies that are not used."""
        used = sum(each.used for each in self._instances)
        if used < 0.95 * sum(each.capacity for each in self._instances):
            return
        for instance in self._instances:
            oldest = next(iter(instance.lru.values()), self.now)
            limit = min(0.1 * (self.now - oldest), 10 * 3600.0)
            for model, last in list(instance.lru.items()):
                copies = self._copies[model]
                if len(copies) == 2 and copies.get(instance.number) and self.now - last > limit:
                    self._drop(instance, model)
