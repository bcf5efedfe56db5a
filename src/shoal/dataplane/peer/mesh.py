"""This instance as part of a mesh: listens for the others, knows who they are, keeps links to them,
and leaves in order.

Composes the parts; what is said between instances is the business of the core, what is forwarded
that of the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import shoal
from shoal.codecs.peer import Hello
from shoal.dataplane.peer.addresses import MAX_PATH_BYTES
from shoal.dataplane.peer.links import LinkEvents, PeerLinks
from shoal.dataplane.peer.options import link_options
from shoal.dataplane.peer.served import Handler
from shoal.dataplane.peer.server import PeerServer, ServerEvents
from shoal.dataplane.peer.tls import client_context, server_context, tls_files
from shoal.domain.accelerators import PoolBudget
from shoal.domain.errors import Conflict
from shoal.domain.mesh import Figures, Member, MemberState
from shoal.node.instance import Instance
from shoal.node.members import Listeners, Members
from shoal.node.presence import Rhythm
from shoal.observability.logs import get_logger
from shoal.ports import KVStore
from shoal.settings import Settings

MESH_NAME: Final = "mesh/name"  # key of the registry; what tells two meshes apart
_PUBLISH_S: Final = 2.0  # for the others to hear that this instance leaves
_LINK_S: Final = 3.0  # for the links to those who are there already
_FAULT_AGAIN_S: Final = 60.0  # until the same fault of a link is told again: others keep trying
_NOTICE_S: Final = 1.0  # for clients to notice that this instance is not ready any more

log = get_logger("shoal.mesh")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where clients and operators reach this instance, `host:port`."""

    http: str
    grpc: str
    management: str


@dataclass(frozen=True, slots=True)
class About:
    """What others are told of this instance. formats, pools, accelerators: as Member's. processors:
    its share of the machine's. folders: that it watches, as records name them. run_dir: for its
    Unix socket; of an instance that shares its registry with other machines, None. shares_ports:
    others answer at the same addresses."""

    id: str
    formats: tuple[str, ...]
    budget_bytes: int
    folders: tuple[str, ...]
    processors: float
    run_dir: Path | None
    shares_ports: bool = False
    pools: tuple[PoolBudget, ...] = ()
    accelerators: tuple[str, ...] = ()


def takes_part(settings: Settings, *, worker: bool) -> bool:
    """Is there to be a mesh? Where instances share nothing, or one process is all there is to be,
    there need not."""
    mesh, url = settings.mesh, settings.registry.url
    if url == "memory":
        return False
    return mesh.join == "on" or (
        mesh.join == "auto" and (worker or is_shared(url) or bool(mesh.listen))
    )


def is_shared(url: str) -> bool:
    """Is it a registry for several machines?"""
    return url.startswith(("etcd://", "etcds://"))


class Mesh:
    """links: to the others, once it is open."""

    def __init__(
        self, instance: Instance, store: KVStore, settings: Settings, about: About,
    ) -> None:
        self._instance = instance
        self._store = store
        self._settings = settings
        self._about = about
        self._incarnation = secrets.token_hex(8)
        self._options = link_options(settings.mesh, settings.http.max_body_bytes)
        self._tls = tls_files(settings.mesh)
        self._refreshing: asyncio.Task[None] | None = None
        self._news = asyncio.Event()  # of members
        self._wrong: dict[str, str] = {}  # with the addresses of others, by id
        self._faults: dict[str, float] = {}  # of links, told lately: when
        self._ends: list[Callable[[float], Awaitable[object]]] = []  # of what was begun

    async def open(self) -> None:
        """Find out which mesh it is; from now on there are links to be used. Raises
        StoreUnavailable, InvalidSpecification for TLS files that cannot be used."""
        self._hello = Hello(
            instance=self._about.id, mesh=await self._name(), incarnation=self._incarnation,
            version=shoal.__version__,
        )
        client_tls = client_context(self._tls) if self._tls else None
        self.links = PeerLinks(
            self._hello,
            LinkEvents(
                on_up=self._peer_up, on_down=self._peer_down,
                on_unreachable=self._peer_down, on_error=_report,
            ),
            self._options, tls=client_tls,
        )
        self._ends.append(lambda _: self.links.close())

    async def start(self, handler: Handler) -> None:
        """Listen, and become a member that is starting. handler: answers what other instances ask.
        Raises InvalidSpecification, StoreUnavailable."""
        self.server = PeerServer(
            handler, self._hello,
            ServerEvents(on_message=self._instance.told, on_error=_report, on_fault=self._fault),
            self._options,
        )
        self._ends.append(self.server.shutdown)
        address = await self._listen(server_context(self._tls) if self._tls else None)
        self._instance.peers = self.links
        mesh = self._settings.mesh
        self.members = Members(
            self._store, self._instance.clock,
            Member(
                id=self._about.id, incarnation=self._incarnation, address=address,
                host=socket.gethostname(), pid=os.getpid(), version=shoal.__version__,
                started_at=self._instance.clock.wall(), zone=mesh.zone,
                labels=mesh.labels_by_name(), accelerators=self._about.accelerators,
                pools=self._about.pools,
                formats=self._about.formats, folders=self._about.folders,
                processors=self._about.processors, budget_bytes=self._about.budget_bytes,
            ),
            Listeners(self._changed, self._instance.note_mesh_problem),
            Rhythm(mesh.lease_s, mesh.refresh_s),
        )
        self._ends.append(lambda _: self.members.stop())
        await self.members.start()

    async def ready(self, addresses: Addresses) -> None:
        """Take a share of the models from now on. Whoever did that without links to the others
        would take itself for the only one, and decide so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINK_S):
                await self._until(self._is_linked)
        self.members.update(
            state=MemberState.READY, http_address=addresses.http, grpc_address=addresses.grpc,
            management_address=addresses.management,
        )
        self._refreshing = asyncio.create_task(self._refresh_for_ever())

    async def leave(self, timeout_s: float) -> None:
        """Let the others take over what was used lately; answers go on meanwhile. Where no other
        process has the same ports, it takes the time that clients need to go elsewhere."""
        loop = asyncio.get_running_loop()
        own_ports = not self._about.shares_ports and bool(self._instance.core.view.others)
        noticed = loop.time() + min(timeout_s, _NOTICE_S if own_ports else 0.0)
        self.members.update(state=MemberState.DRAINING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(timeout_s, _PUBLISH_S)):
                await self.members.published()
        left = await self._instance.hand_over(timeout_s)
        if left:
            log.warning("copies used lately that no other instance has loaded", copies=left)
        await asyncio.sleep(noticed - loop.time())

    def offer(self, formats: tuple[str, ...]) -> None:
        """What this instance can load from now on; it has been started."""
        self.members.update(formats=formats)

    def undo_leaving(self) -> None:
        self.members.update(state=MemberState.READY)

    async def gathered(self, count: int, timeout_s: float) -> None:
        """Returns when so many members are ready, or after `timeout_s` seconds."""
        def are_ready() -> bool:
            ready = [each for each in self.members.members if each.state is MemberState.READY]
            return len(ready) >= count

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._until(are_ready)

    async def stop(self, timeout_s: float) -> None:
        """End what was begun, also where not all of it could be. Requests must have ended."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        for end in reversed(self._ends):
            await end(timeout_s)
        self._instance.peers = None

    @property
    def problems(self) -> list[str]:
        """What is wrong now, in sentences."""
        return [*self.members.problems, *self._wrong.values()]

    # --- watched folders: `node.folders.Sharing` ------------------------------------------------

    async def to_read(self, origin: str) -> None:
        await self._until(lambda: self._reader(origin) == self._about.id)

    async def not_to_read(self, origin: str) -> None:
        await self._until(lambda: self._reader(origin) != self._about.id)

    async def is_read(self, origin: str) -> None:
        await self._until(lambda: any(origin in each.folders_read for each in self.members.members))

    def has_read(self, origin: str) -> None:
        read = self.members.me.folders_read
        if origin not in read:
            self.members.update(folders_read=(*read, origin))
            self._news.set()

    def _reader(self, origin: str) -> str | None:
        """Of those that watch a folder, whoever reads it already, else the first-ranked."""
        staying = [each for each in self.members.members
                   if origin in each.folders and each.state is not MemberState.DRAINING]
        reading = [each.id for each in staying if origin in each.folders_read]
        return self._instance.core.first_of(origin, reading or [each.id for each in staying])

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            self._news.clear()
            await self._news.wait()

    # --- parts ----------------------------------------------------------------------------------

    async def _name(self) -> str:
        """The same for all who share the registry."""
        while (entry := await self._store.get(MESH_NAME)) is None:
            with contextlib.suppress(Conflict):
                await self._store.put(MESH_NAME, secrets.token_hex(8).encode(), expect=0)
        return entry.value.decode()

    async def _listen(self, tls: ssl.SSLContext | None) -> str:
        """The address that others are told."""
        mesh = self._settings.mesh
        if self._about.run_dir is not None and not mesh.listen:
            return await self.server.listen(self._unix_address(self._about.run_dir))
        got = await self.server.listen(f"tcp:{mesh.listen or f'{self._settings.host}:0'}", tls)
        host, _, port = got.removeprefix("tcp:").rpartition(":")
        if mesh.advertise:
            said, _, said_port = mesh.advertise.rpartition(":")
            return f"tcp:{said}:{port if said_port == '0' else said_port}"
        if host in ("0.0.0.0", "[::]"):
            return f"tcp:{_own_host()}:{port}"
        return got

    def _unix_address(self, run_dir: Path) -> str:
        """In `run_dir`, unless the system takes no path of that length."""
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = run_dir / f"{self._incarnation}.peer"
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            path = Path(tempfile.mkdtemp(prefix="shoal-")) / "peer"
        return f"unix:{path}"

    def _changed(self, members: tuple[Member, ...], view: int) -> None:
        self._wrong = self.links.set_members({each.id: each.address for each in members})
        up = self.links.up
        unlinked = tuple([each.id for each in members if each.id not in up])
        self._instance.members_changed(members, view, unlinked)
        self._news.set()

    def _peer_up(self, instance: str) -> None:
        self._instance.peer_up(instance)
        self._news.set()

    def _peer_down(self, instance: str, why: str) -> None:
        self._instance.peer_down(instance, why)
        self._news.set()

    def _fault(self, why: str) -> None:
        now = self._instance.clock.monotonic()
        self._faults = {each: told for each, told in self._faults.items()
                        if now < told + _FAULT_AGAIN_S}
        if why not in self._faults:
            self._faults[why] = now
            log.warning("the link of another instance was ended", why=why)

    def _is_linked(self) -> bool:
        """To all members that can be reached."""
        tried = {self._about.id, *self.links.up, *self._instance.unreached, *self._wrong}
        return all(each.id in tried for each in self.members.members)

    async def _refresh_for_ever(self) -> None:
        """Tell the registry how this instance does, for newcomers and tools."""
        while True:
            await asyncio.sleep(self._settings.mesh.refresh_s)
            self.members.update(
                figures=self._instance.core.view.figures.get(self._about.id, Figures()))


def _own_host() -> str:
    """An address of this machine that others may know."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return socket.gethostname()
    hosts = [str(address[0]) for *_, address in found]
    host = next((each for each in hosts if not each.startswith("127.")), hosts[0])
    return f"[{host}]" if ":" in host else host


def _report(error: BaseException) -> None:
    log.error("unexpected error", method="peer", exc_info=error)
