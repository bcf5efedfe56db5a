"""Becomes the supervisor: settles what all workers share, and what can be wrong about it.

The process that read the settings is replaced, not forked: it keeps its number, for who watches it,
and nothing of its memory. Must not know how workers are watched.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from shoal.dataplane.listening import BACKLOG, GRPC_FLAGS, HTTP_FLAGS
from shoal.dataplane.shares import Shares
from shoal.domain.errors import InvalidSpecification
from shoal.management import server as management_server
from shoal.node.machine import usable_cpus, usable_memory_bytes
from shoal.node.sockets import listen_on, shown
from shoal.settings import Configuration, Settings
from shoal.workers.plan import Plan, write_plan
from shoal.workers.supervisor import SIGNALS

_LONGEST_TEMPORARY: Final = 64  # of 107 bytes that a Unix socket's address may have


@dataclass(frozen=True, slots=True)
class _Sockets:
    http: tuple[socket.socket, ...]
    grpc: tuple[socket.socket, ...]
    management: tuple[socket.socket, ...]


def count_workers(settings: Settings) -> int:
    """How many processes serve."""
    return settings.workers or usable_cpus()


def launch(configuration: Configuration, folders: Sequence[str]) -> NoReturn:
    """Go on as the supervisor of `count_workers` workers. Raises ShoalError when that cannot be."""
    settings = configuration.settings
    workers = count_workers(settings)
    if settings.registry.url == "memory":
        why = f"{workers} workers were asked for" if workers > 1 else (
            "a supervisor (recycle.supervise) replaces it by another")
        raise InvalidSpecification(
            f"registry.url: `memory` belongs to one process, and {why}; set --registry-url to "
            "`sqlite`, which they can share, or --workers to 1 and --no-recycle-supervise"
        )
    # Sockets are closed with their objects, so these must live until the process is replaced.
    sockets = asyncio.run(_open(settings))
    plan = _plan(configuration, folders, sockets, _run_folder())
    plan_fd = write_plan(plan)
    for fd in (plan_fd, *plan.descriptors):
        os.set_inheritable(fd, True)
    # What comes meanwhile waits until the supervisor listens to it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "shoal.workers", str(plan_fd)])


def _plan(
    configuration: Configuration, folders: Sequence[str], sockets: _Sockets, run_dir: str
) -> Plan:
    settings = configuration.settings
    workers = count_workers(settings)
    budget = settings.memory or round(usable_memory_bytes() * settings.cache.share)
    return Plan(
        workers=workers,
        name=settings.instance_id or socket.gethostname(),
        folders=tuple(folders),
        given=dict(configuration.given),
        sources=dict(configuration.sources),
        budget_bytes=budget // workers,
        http=tuple(each.fileno() for each in sockets.http),
        grpc=tuple(each.fileno() for each in sockets.grpc),
        management=tuple(each.fileno() for each in sockets.management),
        http_address=_address(sockets.http[0]),
        grpc_address=_address(sockets.grpc[0]),
        management_address=_address(sockets.management[0]),
        shares=Shares.create(2 * workers),
        run_dir=run_dir,
        log_level=settings.log.level,
        log_format=settings.log.format,
        shutdown_timeout_s=settings.shutdown_timeout_s,
        max_age_s=settings.recycle.max_age_s,
        max_growth=settings.recycle.max_growth,
        hang_timeout_s=settings.recycle.hang_timeout_s,
    )


async def _open(settings: Settings) -> _Sockets:
    """In the order in which a single instance opens them, with the same words for trouble."""
    host = settings.host
    management = await listen_on(
        settings.management.host or host, settings.management.port, management_server.FLAGS,
        management_server.BACKLOG)
    http = await listen_on(host, settings.http.port, HTTP_FLAGS, BACKLOG)
    grpc = await listen_on(host, settings.grpc.port, GRPC_FLAGS, BACKLOG)
    return _Sockets(management=tuple(management), http=tuple(http), grpc=tuple(grpc))


def _run_folder() -> str:
    """A folder for the workers' own sockets, for this user alone."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _LONGEST_TEMPORARY:
        parent = "/tmp"
    try:
        return tempfile.mkdtemp(prefix="shoal-", dir=parent)
    except OSError as error:
        raise InvalidSpecification(
            f"no folder for the workers' sockets can be made in {parent}: {error.strerror}; set "
            "TMPDIR to a folder that may be written"
        ) from None


def _address(listener: socket.socket) -> str:
    return shown(*listener.getsockname()[:2])
