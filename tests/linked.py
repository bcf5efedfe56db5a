"""Instances that are linked, each with its public ports, in one loop of a thread of its own.

The first one, `entry`, loads nothing itself: what clients ask it for is on one of the others.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import uvloop
from tests.fake_control import FakeControl

from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.from_peers import peer_handler
from shoal.dataplane.grpc.server import GrpcServer
from shoal.dataplane.grpc.service import Service
from shoal.dataplane.http.api import PublicApi
from shoal.dataplane.http.server import Server
from shoal.dataplane.listening import Listen
from shoal.dataplane.peer import (
    Hello,
    LinkEvents,
    PeerLinks,
    PeerServer,
    ServerEvents,
    link_options,
)
from shoal.domain.mesh import Member, MemberState
from shoal.node.clock import SystemClock
from shoal.node.control import Control
from shoal.node.folders import Folders
from shoal.node.instance import Instance, Parts
from shoal.node.live import Running
from shoal.node.loader import Loader
from shoal.observability.metrics import Metrics
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings
from shoal.storage.children import Children
from shoal.storage.folder import ModelFolder
from shoal.stores.memory import MemoryStore

T = TypeVar("T")

PATIENCE_S: Final = 30.0
BUDGET_BYTES: Final = 1024**3

_RUNTIMES: Final = RuntimeRegistry.installed()


async def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.002)


class Node:
    """One instance. formats: what it says that it can load; errors: what escaped from a handler."""

    def __init__(self, name: str, folder: Path, settings: Settings, formats: tuple[str, ...] = ()
                 ) -> None:
        clock = SystemClock()
        self.name = name
        self.settings = settings
        self.errors: list[str] = []
        self.pool = ThreadPoolExecutor(8)
        self.instance = Instance(settings, Parts(
            store=MemoryStore(clock),
            loader=Loader(_RUNTIMES, trusted=(str(folder),), trusted_types=(), framework_threads=1),
            running=Running(self.pool, 8, inline_limit_s=0.001, max_queued=1000),
            metrics=Metrics(True, 100), clock=clock, budget_bytes=BUDGET_BYTES, id=name,
        ))
        self.folders = Folders(self.instance, [
            lambda: ModelFolder(Children(folder, _RUNTIMES), settle_s=0.0, poll_s=60.0, clock=clock)
        ])
        hello = Hello(instance=name, mesh="sea")
        options = link_options(settings.mesh, settings.http.max_body_bytes)
        self.links = PeerLinks(hello, LinkEvents(
            on_up=self.instance.peer_up, on_down=self.instance.peer_down, on_error=self._report,
        ), options)
        self.instance.peers = self.links
        endpoints = Endpoints(self.instance, cast(Control, FakeControl()), self.links)
        methods = Service(self.instance, endpoints).methods
        self.peers = PeerServer(
            peer_handler(self.instance, endpoints, methods), hello,
            ServerEvents(on_message=self.instance.told, on_error=self._report), options,
        )
        self.http = Server(PublicApi(self.instance, endpoints), settings.http, listen=Listen(),
                           on_error=lambda error, _: self._report(error))
        self.grpc = GrpcServer(methods, settings.grpc, listen=Listen(),
                               on_error=lambda error, _: self._report(error))
        self.member = Member(
            id=name, incarnation=name, state=MemberState.READY, budget_bytes=BUDGET_BYTES,
            formats=formats,
        )

    def _report(self, error: BaseException) -> None:
        self.errors.append(repr(error))

    async def start(self, address: str) -> None:
        self.address = await self.peers.listen(address)
        await self.instance.start()
        await self.http.start()
        await self.grpc.start()

    async def join(self, nodes: Sequence[Node], view: int) -> None:
        """Know these and no others."""
        self.links.set_members({node.name: node.address for node in nodes})
        self.instance.members_changed(
            tuple(sorted((node.member for node in nodes), key=lambda member: member.id)), view, ()
        )
        await until(lambda: len(self.links.up) == len(nodes) - 1, "links to all others")
        await self.folders.start(watch=False)
        self.instance.starting = False

    async def die(self) -> None:
        """As if its process had been killed: others see their links break."""
        await self.links.close()
        await self.peers.shutdown(0.0)

    async def stop(self) -> None:
        self.instance.drain()
        await self.http.shutdown(1.0)
        await self.grpc.shutdown(1.0)
        await self.die()
        await self.folders.stop()
        await self.instance.stop()
        self.pool.shutdown()


class Linked:
    """`nodes`: the entry and the others."""

    def __init__(self, folder: Path, sockets: Path, others: int, settings: Settings) -> None:
        self._folder = folder
        self._sockets = sockets
        self._others = others
        self._settings = settings
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.nodes: list[Node] = []
        self.complaints: list[dict[str, Any]] = []

    @property
    def entry(self) -> Node:
        return self.nodes[0]

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        assert len(self.nodes) == 1 + self._others

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert self.complaints == []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """On the instances' loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def holder(self, model: str) -> Node:
        """The only instance that has the model in memory."""
        (found,) = [node for node in self.nodes if any(
            copy.revision.model == model for copy in list(node.instance.live.values()))]
        return found

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._over = asyncio.Event()
        nodes = [
            Node(f"n{number}", self._folder, self._settings, () if number else ("nothing",))
            for number in range(1 + self._others)
        ]
        try:
            for node in nodes:
                await node.start(f"unix:{self._sockets / node.name}")
            await asyncio.gather(*[node.join(nodes, 1) for node in nodes])
            self.nodes = nodes
        finally:
            self._ready.set()
        await self._over.wait()
        for node in nodes:
            await node.stop()


@contextmanager
def linked(
    folder: Path, sockets: Path, others: int = 1, settings: Settings | None = None
) -> Iterator[Linked]:
    found = Linked(folder, sockets, others, settings or Settings())
    found.start()
    try:
        yield found
    finally:
        found.stop()
