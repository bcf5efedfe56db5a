"""What the supervisor and its workers go by: settled once, before the first of them starts.

It travels as a file without a name, for it may hold secrets that have no place on a command line.
Must not know what is done with it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

_BEAT_S: Final = 1.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """workers: how many. name: what instance ids begin with. budget_bytes: of one worker.

    given, sources: as in `settings.Configuration`. http, grpc, management: the descriptors of the
    listening sockets, the same numbers in every process; `…_address`: what they are called in logs.
    shares: the descriptor of the table of `dataplane.shares`, with `rows` rows.
    """

    workers: int
    name: str
    folders: tuple[str, ...]
    given: dict[str, object]
    sources: dict[str, str]
    budget_bytes: int
    http: tuple[int, ...]
    grpc: tuple[int, ...]
    management: tuple[int, ...]
    http_address: str
    grpc_address: str
    management_address: str
    shares: int
    run_dir: str
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["auto", "console", "json"]
    shutdown_timeout_s: float
    max_age_s: float
    max_growth: int
    hang_timeout_s: float

    @property
    def rows(self) -> int:
        """Of the table of shares: while workers are replaced there are more of them."""
        return 2 * self.workers

    @property
    def beat_s(self) -> float:
        """How often a worker says that it is alive; 0: not at all."""
        return min(_BEAT_S, self.hang_timeout_s / 4)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (*self.http, *self.grpc, *self.management, self.shares)


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker tells its supervisor, one JSON object a line.

    alive: its event loop runs, told again and again (`Plan.beat_s`). leaking: it wants to be
    replaced. message: why it failed, or leaks. models, formats: how many and which it serves, when
    ready.
    """

    state: Literal["alive", "ready", "leaking", "draining", "failed"]
    message: str = ""
    models: int = 0
    formats: str = ""


StartReason: TypeAlias = Literal["died", "hung", "leak", "growth", "age", "asked"]
"""Why a worker came after another one: that died, or hung and was ended; held memory that no model
was booked for; had grown beyond `recycle.max_growth`; was older than `recycle.max_age_s`; or
somebody sent SIGHUP."""


class Before(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker is told of those who had its place before it: one JSON object on a line.

    why: the last one is there no more, in a sentence. starts: how many came after another, by
    reason. ends: how processes of any place ended lately that did not in order, by their numbers,
    in words that follow "the process".
    """

    why: str = ""
    starts: dict[str, int] = {}
    ends: dict[int, str] = {}

    def then(self, reason: StartReason, why: str) -> Before:
        """One more is over."""
        return Before(why=why, starts={**self.starts, reason: self.starts.get(reason, 0) + 1})


def write_plan(plan: Plan) -> int:
    """The descriptor of a file with the plan."""
    fd = os.memfd_create("shoal-plan")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(msgspec.json.encode(plan))
    return fd


def read_plan(fd: int) -> Plan:
    """Leaves the file's position alone, which all processes share."""
    return msgspec.json.decode(os.pread(fd, os.fstat(fd).st_size, 0), type=Plan)


def private_address(run_dir: Path, number: int) -> Path:
    """The Unix socket at which worker `number` serves management to the other workers."""
    return run_dir / f"worker-{number}.sock"
