"""Watches a folder of models, wherever it lies, and tells what its changes declare.

Nothing is read before its files have been still for a while, and nothing is told twice. What to do
about a change, and whether a model that broke keeps being served, is the listener's to decide.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import msgspec

from shoal.domain.errors import ShoalError
from shoal.domain.model import ModelRecord
from shoal.ports import Clock
from shoal.storage.claims import Claims
from shoal.storage.entry import Outcome
from shoal.storage.files import Stamp, readable_name
from shoal.storage.notices import Notices
from shoal.storage.settling import Settling

_READERS: Final = 2  # threads that read at once: more only help when the disk is slow
_TURN_S: Final = 0.05  # a reader hands over what it has after so long
_LEAST_PAUSE_S: Final = 0.01  # between looks, with whatever settings
_TIMER_SLACK_S: Final = 0.002  # libuv rounds to milliseconds and may wake before the time
_RETURN_POLL_S: Final = 2.0  # how often a folder that went away is looked for


@dataclass(frozen=True, slots=True)
class Declared:
    """A model is new, or what can be served of it changed. `record.problem`: what cannot."""

    record: ModelRecord


@dataclass(frozen=True, slots=True)
class Removed:
    """No entry of the folder declares the name any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Problem:
    """The newest state of a model cannot be served; an earlier one, if there was any, may be kept.
    `name` None: it concerns the folder itself, whose models stay declared. code: of the error.
    entry: the file or folder of the model in the watched one."""

    name: str | None
    message: str
    code: str | None = None
    entry: str | None = None


FolderChange: TypeAlias = Declared | Removed | Problem


class Watched(Protocol):
    """A folder of models, or one model alone, as it can be watched. name: for messages; origin: by
    which records name it. An entry is a model's file or folder in it. What blocks is called on
    threads."""

    name: str
    origin: str

    def survey(
        self, only: Iterable[str] | None, known: Iterable[str] = ()
    ) -> Mapping[str, Stamp | None]:
        """The state of every entry, or of those that the names `only` touch; None for the absent
        ones, when all are looked at for those among `known`. Blocking.

        Raises InvalidSpecification when it cannot be looked at."""

    def read(self, entry: str, registered_at: float) -> Outcome:
        """What the entry declares. Blocking. registered_at: seconds since the epoch."""

    def forget(self, entry: str) -> None:
        """It is gone."""

    def default_name(self, entry: str) -> str:
        """What its model is called when nothing in it says otherwise."""

    def uri_of(self, entry: str) -> str: ...

    async def listen(self, notices: Notices) -> None:
        """Have the notices of changes told, where there are any."""

    def stop(self, *, now: bool) -> None:
        """now: what is being read is not needed any more. Otherwise reading begins."""


class ModelFolder:
    """The models in a folder, or the one model that it is (see `layout.is_model`).

    settle_s: seconds an entry must stay unchanged, or gone, before that takes effect.
    poll_s: seconds between complete looks, beside the file system's notices.
    sleep: how `first_scan` waits; tests pass their own.
    Used by one task at a time.
    """

    def __init__(self, watched: Watched, *, settle_s: float, poll_s: float, clock: Clock,
                 sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.watched = watched
        self.name = watched.name
        self.origin = watched.origin
        self._clock = clock
        self._sleep = sleep
        self._settle_s = settle_s
        self._poll_s = poll_s
        self._settling = Settling(settle_s)
        self._claims = Claims()
        self._told: dict[str, bytes] = {}
        self._scanned = False
        self._away: str | None = None
        self._deaf: str | None = None
        self._noticed: set[str] = set()
        self._look_at_all = False
        self._wake = asyncio.Event()

    @property
    def problem(self) -> str | None:
        """What is wrong with the folder itself now, in a sentence."""
        return self._away or self._deaf

    async def first_scan(self) -> list[FolderChange]:
        """Everything the folder declares at the start.

        Files that have not changed for `settle_s`, by their own times, are read at once. When there
        are younger ones it waits for them, once; what goes on changing is left to later scans.
        Raises InvalidSpecification when the folder cannot be looked at.
        """
        changes = await self.scan()
        due_s = self._settling.last_due()
        if due_s is not None:
            await self._sleep(max(0.0, due_s - self._clock.monotonic()) + _TIMER_SLACK_S)
            changes += await self.scan()
        return changes

    async def scan(self) -> list[FolderChange]:
        """Look at every entry; what the still ones declare that was not told before.

        Raises InvalidSpecification when the folder cannot be looked at for the first time; later
        that is a Problem.
        """
        async with aclosing(self._changes(None)) as changes:
            return [change async for change in changes]

    async def watch(self, on_change: Callable[[FolderChange], Awaitable[None]]) -> None:
        """Tell every change until cancelled; without an earlier `first_scan`, all that is there
        first. An error out of `on_change` ends the watch.

        Raises InvalidSpecification when the folder cannot be looked at for the first time.
        """
        notices = Notices(self._notice)
        next_poll_s = self._clock.monotonic()
        try:
            while True:
                complete = self._look_at_all or self._clock.monotonic() >= next_poll_s
                only = None if complete else self._noticed | self._settling.waiting()
                self._noticed, self._look_at_all = set(), False
                self._wake.clear()
                async with aclosing(self._changes(only)) as changes:
                    async for change in changes:
                        await on_change(change)
                if complete:
                    next_poll_s = self._clock.monotonic() + await self._listen(notices)
                if (deaf := self._hear(notices)) is not None:
                    await on_change(deaf)
                await self._pause(next_poll_s)
        finally:
            await notices.close()

    def read_again(self, names: Iterable[str]) -> None:
        """What lies there may declare something else now, though no file changed. Of names that
        another folder declares, or nobody, nothing is read. Told by the running `watch`, or by the
        next `scan` once it has been still."""
        entries = {entry for name in names for entry in self._claims.claimants(name)}
        for entry in entries:
            self._settling.wait(entry, self._clock.monotonic())
        if entries:
            self._notice(entries)

    # --- waiting for something to happen --------------------------------------------------------

    async def _listen(self, notices: Notices) -> float:
        """See that somebody listens. Returns the seconds until the next complete look."""
        if self._away:
            await notices.close()
            return min(self._poll_s, _RETURN_POLL_S)
        await self.watched.listen(notices)
        return self._poll_s

    def _hear(self, notices: Notices) -> Problem | None:
        """The problem, once, when nobody can listen."""
        deaf = notices.failure and (
            f"{self.name}: the file system gives no notices ({notices.failure}), so changes are "
            f"only seen every {self._poll_s:g} s; if a limit was reached, raise "
            "fs.inotify.max_user_watches"
        )
        new = deaf is not None and deaf != self._deaf
        self._deaf = deaf
        return Problem(None, deaf) if new and deaf else None

    def _notice(self, names: set[str] | None) -> None:
        if names is None:
            self._look_at_all = True
        else:
            self._noticed |= names
        self._wake.set()

    async def _pause(self, next_poll_s: float) -> None:
        due_s = self._settling.next_due()
        until_s = next_poll_s if due_s is None or self._away else min(due_s, next_poll_s)
        try:
            async with asyncio.timeout(max(_LEAST_PAUSE_S, until_s - self._clock.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            pass

    # --- looking, reading, telling --------------------------------------------------------------

    async def _changes(self, only: Iterable[str] | None) -> AsyncGenerator[FolderChange, None]:
        """Look at the names `only`, or at all; read what is due; yield what is new."""
        self.watched.stop(now=False)
        before_s = self._clock.monotonic()
        known = self._settling.keys() if only is None else ()
        try:
            seen = await asyncio.to_thread(self.watched.survey, only, known)
        except ShoalError as error:
            if not self._scanned:
                raise
            if error.message != self._away:
                self._away = error.message
                yield Problem(None, error.message)
            return
        self._away = None
        self._see(seen)
        due = self._settling.due(before_s)
        still_there = [entry for entry in due if self._settling.take(entry)]
        left = {name for entry in set(due).difference(still_there)
                for name in self._forget(entry)}
        async with aclosing(self._read_all(still_there)) as turns:
            async for outcomes in turns:
                fresh = {outcome.entry: outcome for outcome in outcomes}
                touched = {name for outcome in outcomes for name in self._note(outcome)}
                left -= touched  # another entry has the name now, and it is told here
                for name in sorted(touched):
                    if (change := await self._news(name, fresh)) is not None:
                        yield change
        for name in sorted(left):
            if (change := await self._news(name, {})) is not None:
                yield change

    def _see(self, seen: Mapping[str, Stamp | None]) -> None:
        now_s = self._clock.monotonic()
        still_before_s = self._clock.wall() - self._settle_s
        for entry, stamp in seen.items():
            still = not self._scanned and stamp is not None and stamp.newest_s <= still_before_s
            self._settling.see(entry, stamp.signature if stamp else None, now_s, still=still)
        self._scanned = True

    async def _read_all(self, entries: list[str]) -> AsyncGenerator[list[Outcome], None]:
        """What `entries` hold, in portions, as soon as it is known."""
        queue = deque(entries)
        running = {self._start_turn(queue) for _ in range(min(_READERS, len(queue)))}
        try:
            while running:
                done, running = await asyncio.wait(
                    running, return_when=asyncio.FIRST_COMPLETED
                )
                for turn in done:
                    if queue:
                        running.add(self._start_turn(queue))
                    yield turn.result()
        finally:
            for turn in running:
                self.watched.stop(now=True)  # threads cannot be cancelled; they look at this
                turn.cancel()

    def _start_turn(self, queue: deque[str]) -> asyncio.Task[list[Outcome]]:
        return asyncio.create_task(asyncio.to_thread(self._read_turn, queue))

    def _read_turn(self, queue: deque[str]) -> list[Outcome]:
        """Read for a while: a thread hop for each small file would cost more than the file."""
        end_s = self._clock.monotonic() + _TURN_S
        outcomes: list[Outcome] = []
        while not outcomes or self._clock.monotonic() < end_s:
            try:
                entry = queue.popleft()
            except IndexError:
                break
            outcomes.append(self._read(entry))
        return outcomes

    def _read(self, entry: str) -> Outcome:
        return self.watched.read(entry, self._clock.wall())

    def _forget(self, entry: str) -> set[str]:
        """The names that lost a claimant."""
        self.watched.forget(entry)
        return self._claims.release(entry)

    def _note(self, outcome: Outcome) -> set[str]:
        """Keep what matters later. Returns the names of which there may be something to tell."""
        entry = outcome.entry
        if outcome.changed:
            self._settling.wait(entry, self._clock.monotonic())
            return set()
        if outcome.retry:
            self._settling.again(entry)
        if outcome.record is None and outcome.problem is None:
            return self._forget(entry)
        name = outcome.name or self._claims.name_of(entry)
        name = name or readable_name(self.watched.default_name(entry))
        return self._claims.claim(entry, name) | {name}

    async def _news(self, name: str, fresh: Mapping[str, Outcome]) -> FolderChange | None:
        """What there is to tell of `name` that was not told before."""
        claimants = self._claims.claimants(name)
        if not claimants:
            return Removed(name) if self._told.pop(name, None) is not None else None
        first, *others = claimants
        outcome = fresh.get(first)
        if outcome is None:
            outcome = await asyncio.to_thread(self._read, first)
        if outcome.changed or (outcome.name or name) != name:
            self._settling.wait(first, self._clock.monotonic())
            return None
        change = _as_change(name, outcome, self._clash(name, first, others))
        sign = _sign(change)
        if self._told.get(name) == sign:
            return None
        self._told[name] = sign
        return change

    def _clash(self, name: str, first: str, others: list[str]) -> str | None:
        if not others:
            return None
        listed = ", ".join(map(readable_name, others))
        return (
            f"{listed} in {self.name} would be called {name!r} as well as "
            f"{readable_name(first)}, which alone is served; rename or remove the others"
        )


def _as_change(name: str, outcome: Outcome, clash: str | None) -> Declared | Problem:
    problem = "; ".join(filter(None, (outcome.problem, clash)))
    if outcome.record is None:
        return Problem(name, problem, outcome.problem_code, readable_name(outcome.entry))
    if clash is None:
        return Declared(outcome.record)
    problem = "; ".join(filter(None, (outcome.record.problem, clash)))
    return Declared(msgspec.structs.replace(outcome.record, problem=problem))


def _sign(change: Declared | Problem) -> bytes:
    """Alike for changes that say the same; the time of registering says nothing."""
    if isinstance(change, Problem):
        content = f"!{change.code} {change.message}".encode()
    else:
        content = msgspec.json.encode(msgspec.structs.replace(change.record, registered_at=0.0))
    return hashlib.blake2b(content, digest_size=16).digest()
