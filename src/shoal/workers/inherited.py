"""What a worker has from its supervisor, and the line between them.

Must not know what the worker serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from shoal.dataplane.listening import Common
from shoal.dataplane.shares import Shares
from shoal.workers.plan import Before, Plan, Report, private_address

_READ_BYTES: Final = 64 * 1024


class Channel:
    """Tells the supervisor how it goes, and notices that the supervisor is gone."""

    def __init__(self, fd: int, beat_s: float) -> None:
        self._beat_s = beat_s
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self.broken = False

    def close(self) -> None:
        """The supervisor takes no notice of that: the end of the process counts."""
        self._socket.close()

    def before(self) -> Before:
        """Who had this worker's place; the supervisor says so before anything else."""
        try:
            line, _, _ = self._socket.recv(_READ_BYTES).partition(b"\n")
            return msgspec.json.decode(line, type=Before)
        except (OSError, msgspec.MsgspecError):
            return Before()

    def tell(self, report: Report) -> None:
        # A supervisor that is gone is noticed elsewhere, and a line always fits.
        with contextlib.suppress(OSError):
            self._socket.send(msgspec.json.encode(report) + b"\n")

    def beat(self) -> None:
        """Tell from now on that the running loop does its work, as long as it does."""
        if self._beat_s:
            self.tell(Report(state="alive"))
            asyncio.get_running_loop().call_later(self._beat_s, self.beat)

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` when the supervisor has ended, however it did."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            try:
                gone = not self._socket.recv(1024)
            except BlockingIOError:
                return
            except OSError:
                gone = True
            if gone:
                loop.remove_reader(self._socket.fileno())
                self.broken = True
                on_gone()

        loop.add_reader(self._socket.fileno(), look)


@dataclass(frozen=True, slots=True)
class Inherited:
    """number: from 1, of this worker among `workers`. budget_bytes: its part of the memory. before:
    who had its place."""

    number: int
    workers: int
    instance_id: str
    budget_bytes: int
    run_dir: Path
    http: Common
    grpc: Common
    management: tuple[socket.socket, ...]
    channel: Channel
    before: Before

    @property
    def private_address(self) -> Path:
        return private_address(self.run_dir, self.number)

    def clear_up(self) -> None:
        """Remove what the supervisor would, if it is gone; the last worker removes the folder."""
        if self.channel.broken:
            self.private_address.unlink(missing_ok=True)
            others = [private_address(self.run_dir, each) for each in range(1, self.workers + 1)]
            if not any(each.exists() for each in others):
                shutil.rmtree(self.run_dir, ignore_errors=True)


def inherit(plan: Plan, channel_fd: int, number: int, row: int, instance_id: str) -> Inherited:
    """Take over the descriptors, from which processes that models start get nothing."""
    for fd in (channel_fd, *plan.descriptors):
        os.set_inheritable(fd, False)
    shares = Shares(plan.shares, plan.rows)
    channel = Channel(channel_fd, plan.beat_s)
    return Inherited(
        number=number,
        workers=plan.workers,
        instance_id=instance_id,
        budget_bytes=plan.budget_bytes,
        run_dir=Path(plan.run_dir),
        http=Common(_sockets(plan.http), shares.share("http", row)),
        grpc=Common(_sockets(plan.grpc), shares.share("grpc", row)),
        management=_sockets(plan.management),
        channel=channel,
        before=channel.before(),
    )


def _sockets(descriptors: Sequence[int]) -> tuple[socket.socket, ...]:
    sockets = tuple(socket.socket(fileno=fd) for fd in descriptors)
    for each in sockets:
        each.setblocking(False)
    return sockets
