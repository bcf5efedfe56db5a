"""What must be true at every moment, however much fails: checked on all that instances do.

Breaking it raises Broken. Must not know which faults there are.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from shoal.core.entry import LEAST_RETRIES, was_never_sent
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.model import ModelRecord
from shoal.simulation.requests import Outcome, Request

if TYPE_CHECKING:
    from shoal.simulation.host import Host

GONE: Final = "COPY_GONE"


class Broken(AssertionError):
    """The decisions broke a promise."""


class Safety:
    """every: invariants are checked after each so many events of the mesh. strict: copies take what
    was reserved for them, so that the budget holds at every moment."""

    def __init__(self, *, every: int = 1, strict: bool = True, traced: bool = False) -> None:
        self.every = every
        self.strict = strict
        self.events = 0
        self.loads = 0
        self.loads_of: dict[str, int] = {}
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.refusals: dict[str, int] = {}
        self.open: dict[Request, None] = {}
        self.digest = hashlib.blake2b(digest_size=16)
        self._traced = traced
        self._declared: dict[str, dict[str, int | None]] = {}  # revisions that may ever answer
        self._asked: dict[Host, int] = {}
        self._retried: dict[Host, int] = {}

    # --- what is allowed ------------------------------------------------------------------------

    def declared(self, record: ModelRecord) -> None:
        known = self._declared.setdefault(record.name, {})
        known |= {each.id: each.version for each in record.revisions}

    # --- what happens ---------------------------------------------------------------------------

    def handled(self, host: Host, event: on.Event, commands: list[do.Command]) -> None:
        self.events += 1
        if self._traced:
            self.digest.update(msgspec.json.encode((host.id, host.now, event, commands)))
        if isinstance(event, on.CopyRequested):
            self._count_retry(host, event, commands)
        if self.events % self.every == 0:
            host.core.check_invariants()

    def _count_retry(
        self, host: Host, event: on.CopyRequested, commands: list[do.Command]
    ) -> None:
        if event.miss is None:
            self._asked[host] = self._asked.get(host, 0) + 1
            return
        refused = any(isinstance(each, do.Refuse) and each.ticket == event.ticket
                      for each in commands)
        if refused or event.miss.code == GONE or was_never_sent(event.miss):
            return
        self._retried[host] = self._retried.get(host, 0) + 1
        allowed = LEAST_RETRIES + host.options.retry_share * self._asked.get(host, 0)
        if self._retried[host] > allowed:
            raise Broken(f"{host.id} tried {self._retried[host]} requests again, and its budget "
                         f"is {allowed:.0f}")

    def load_begins(self, host: Host, command: do.LoadCopy) -> None:
        key = command.revision.id
        self.loads += 1
        self.loads_of[key] = self.loads_of.get(key, 0) + 1
        if key not in self._declared.get(command.revision.model, ()):
            raise Broken(f"{host.id} loads {key}, which was never declared")
        taken = sum(live.size_bytes for live in host.live.values())
        taken += sum(each.reserved_bytes for each in host.loading.values())
        taken += command.reserved_bytes
        if taken > host.options.budget_bytes:
            raise Broken(
                f"{host.id} would hold {taken:,} bytes with {key}, and its budget is "
                f"{host.options.budget_bytes:,}")
        if command.device is not None:
            self._load_begins_on(host, command, command.device)

    def _load_begins_on(self, host: Host, command: do.LoadCopy, device: str) -> None:
        taken = held_on(host, device) + command.accelerator_bytes
        taken += sum(each.accelerator_bytes for each in host.loading.values()
                     if each.device == device)
        for pool in host.options.pools:
            if pool.name == device and taken > pool.budget_bytes:
                raise Broken(
                    f"{host.id} would hold {taken:,} bytes on {device} with {command.revision.id},"
                    f" and the budget there is {pool.budget_bytes:,}")

    def runs(self, host: Host, request: Request, revision: str) -> None:
        model, version = request.name
        known = self._declared.get(model, {})
        if revision not in known:
            raise Broken(f"request {request.number} for {model} runs on {revision}")
        if version is not None and known[revision] != version:
            raise Broken(f"request {request.number} for version {version} runs on {revision}")
        if request.entry == host.id and model not in host.records:
            raise Broken(f"{host.id} runs {revision}, and knows that {model} was removed")
        if request.runs and not request.repeatable:
            raise Broken(f"request {request.number} runs again, and {model} is not repeatable")
        limit = 3 * host.options.max_attempts
        if request.forwards > limit:
            raise Broken(f"request {request.number} was forwarded {request.forwards} times")

    def ended(self, host: Host, request: Request) -> None:
        self.outcomes[request.outcome] += 1
        self.open.pop(request, None)
        if request.outcome is Outcome.REFUSED:
            self.refusals[request.code] = self.refusals.get(request.code, 0) + 1

    def gone(self, host: Host) -> None:
        self._asked.pop(host, None)
        self._retried.pop(host, None)

    # --- now and then ---------------------------------------------------------------------------

    def look(self, host: Host) -> None:
        """What is dearer to check, or holds only where sizes are as foreseen."""
        for name in (*host.here, *host.elsewhere):
            if name[0] not in host.records:
                raise Broken(f"{host.id} has a route for {name}, which it knows to be removed")
        taken = sum(live.size_bytes for live in host.live.values())
        if self.strict and taken > host.options.budget_bytes:
            raise Broken(f"{host.id} holds {taken:,} bytes of {host.options.budget_bytes:,}")
        for pool in host.options.pools:
            there = held_on(host, pool.name)
            if self.strict and there > pool.budget_bytes:
                raise Broken(
                    f"{host.id} holds {there:,} bytes on {pool.name} of {pool.budget_bytes:,}")


def held_on(host: Host, device: str) -> int:
    """Bytes of copies on that accelerator, those that leave included."""
    return sum(live.accelerator_bytes for live in host.live.values() if live.device == device)
