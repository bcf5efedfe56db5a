"""An instance with its servers: put together from its settings, started, ended in order."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Final

import shoal
from shoal.app.accelerators import accelerated_formats, kinds_told, pools_of
from shoal.app.recycling import Recycling
from shoal.app.running import make_loader, make_running, remember_deaths
from shoal.app.sources import Sources
from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.from_peers import peer_handler
from shoal.dataplane.grpc.server import GrpcServer
from shoal.dataplane.grpc.service import Service
from shoal.dataplane.http.api import PublicApi
from shoal.dataplane.http.message import Request
from shoal.dataplane.http.server import Server
from shoal.dataplane.listening import Listen
from shoal.dataplane.peer import MANAGEMENT, Handler, PeerCall, PeerReply
from shoal.dataplane.peer.mesh import About, Addresses, Mesh, is_shared, takes_part
from shoal.domain.errors import InvalidSpecification
from shoal.management.api import create_app
from shoal.management.server import BACKLOG, ManagementServer
from shoal.node.advising import advise
from shoal.node.choosing_again import ChoosingAgain
from shoal.node.clock import SystemClock
from shoal.node.contents import MODELS, Contents, read_contents
from shoal.node.folders import Folders
from shoal.node.instance import Instance, Parts
from shoal.node.machine import usable_cpus, usable_memory_bytes
from shoal.node.operations import Identity, Operations
from shoal.node.serving_operations import ServingOperations
from shoal.node.serving_runtimes import ServingRuntimes
from shoal.node.sockets import listen_privately, shown
from shoal.node.suspects import story
from shoal.observability.logs import get_logger
from shoal.observability.metrics import Metrics
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Configuration
from shoal.storage.children import origin_of
from shoal.stores.open import Opened, open_or_repair
from shoal.workers.inherited import Inherited
from shoal.workers.metrics import PageOfAll
from shoal.workers.plan import Before, Report

_HAND_OVER_SHARE: Final = 0.5  # of the time for shutting down, for other instances to take over
_GATHERING_S: Final = 10.0  # that a worker waits for the others, before it fills its memory
_LEAST_STOP_S: Final = 0.5  # for management to end, after inference took all the time

log = get_logger("shoal")


class App:
    """One instance with its servers. Also what tests start in their own loop."""

    def __init__(
        self, configuration: Configuration, folders: Sequence[str] = (),
        inherited: Inherited | None = None,
    ) -> None:
        self.settings = settings = configuration.settings
        self._configuration = configuration
        self._inherited = inherited
        self._given = list(folders)
        self._clock = SystemClock()
        self.serving = ServingRuntimes(self._clock)
        self.runtimes = RuntimeRegistry.installed()
        self.runtimes.outside = self.serving.all
        self.metrics = Metrics(settings.metrics.per_model, settings.metrics.max_models)
        self.budget_bytes = inherited.budget_bytes if inherited else (
            settings.memory or round(usable_memory_bytes() * settings.cache.share)
        )
        self.pools = pools_of(settings.accelerator, self._workers)
        self._http: Server | None = None
        self._grpc: GrpcServer | None = None
        self._management: list[ManagementServer] = []
        self._page: PageOfAll | None = None
        self._repair: str | None = None
        self.mesh: Mesh | None = None
        self._folders: Folders | None = None
        self._choosing: ChoosingAgain | None = None
        self.sources = Sources(settings, self.runtimes, self._clock)
        self._loader = make_loader(
            settings, self.runtimes, self.sources.fetching, self._given, self.budget_bytes)
        self._loader.serving = self.serving.get
        self._filling: asyncio.Task[None] | None = None
        self.recycling: Recycling | None = None
        self._stopped = False

    async def start(self) -> None:
        """Listen and serve. Raises ShoalError; then nothing is left running."""
        opened = await self._open_store()
        self._store = opened.store
        inherited, name = self._inherited, self.settings.instance_id
        before = inherited.before if inherited else Before()
        self._loader.suspects = remember_deaths(self.settings.data_dir, before)
        self.identity = Identity(
            id=inherited.instance_id if inherited else (
                name or f"{socket.gethostname()}-{secrets.token_hex(3)}"),
            started_at=self._clock.wall(),
        )
        self.instance = Instance(self.settings, self._parts(opened))
        self.recycling = Recycling(self.instance, inherited, self.settings.recycle.exit)
        self.instance.on_look = self.recycling.look
        self._tell_of(before)
        if self._repair is not None:
            self.instance.note_registry_problem(self._repair)
        folders = [partial(self.sources.folder, given) for given in self._given]
        try:
            await self.sources.start(opened.store, opened.contents, self.instance.journal.note)
            await self.serving.start(
                opened.store, opened.contents, self.instance.note_serving_problem)
            await self.instance.start()
            advise(self.instance, self.runtimes, self.settings.trust)
            await self._listen()
            self._folders = Folders(self.instance, folders, self.mesh)
            self._choosing = ChoosingAgain(
                self.instance, self.serving, self.operations.declarations, self._folders)
            self.serving.listeners.append(self._choosing.changed)
            await self._folders.start(watch=self.settings.folder.watch)
            if self.mesh is not None:
                await self.mesh.ready(Addresses(
                    http=self.identity.http_address, grpc=self.identity.grpc_address,
                    management=self.identity.management_address,
                ))
        except BaseException:
            await self.stop()
            raise
        self.instance.starting = False
        if self.serving.all():
            self._choosing.begin()
        self._filling = asyncio.create_task(self._begin_filling())
        log.info(
            "worker serving" if self._inherited else "serving", models=len(self.instance.replica),
            http=f"http://{self.identity.http_address}", grpc=self.identity.grpc_address,
            management=f"http://{self.identity.management_address}", budget_bytes=self.budget_bytes,
            formats=",".join(self.runtimes.formats()), version=shoal.__version__,
        )
        if self._inherited is not None:
            self._inherited.channel.tell(Report(
                state="ready", models=len(self.instance.replica),
                formats=",".join(self.runtimes.formats()),
            ))

    def _tell_of(self, before: Before) -> None:
        """What became of processes before this one."""
        note = self.instance.journal.note
        self.metrics.restarts = before.starts
        if before.why:
            note("worker_replaced", before.why)
        if (suspects := self._loader.suspects) is not None:
            for revision, each in suspects.news.items():
                note("deadly_load", story(each), model=revision.rpartition("@")[0],
                     revision=revision)

    async def _begin_filling(self) -> None:
        """Workers that start together fill their memory together."""
        if self.mesh is not None and self._inherited is not None:
            await self.mesh.gathered(self._inherited.workers, _GATHERING_S)
        self.instance.filling.begin()

    async def stop(self) -> None:
        """Accept no more, finish what has begun within `shutdown_timeout_s`, close everything."""
        if self._stopped:
            return
        self._stopped = True
        if self._inherited is not None:
            self._inherited.channel.tell(Report(state="draining"))
        timeout_s = self.settings.shutdown_timeout_s
        end_s = self._clock.monotonic() + timeout_s
        if self.mesh is not None and not self.instance.starting:
            self.instance.leaving = True
            await self.mesh.leave(_HAND_OVER_SHARE * timeout_s)
            timeout_s = max(end_s - self._clock.monotonic(), _LEAST_STOP_S)
        self.instance.drain()
        # Who still waits for a load then is answered before the connections are cut.
        asyncio.get_running_loop().call_later(0.9 * timeout_s, self.instance.tickets.close)
        servers = [server for server in (self._http, self._grpc) if server is not None]
        others = self._inherited is not None or bool(self.instance.core.view.others)
        cut = sum(await asyncio.gather(
            *[server.shutdown(timeout_s, linger=others) for server in servers]))
        if cut:
            log.warning("requests cut off at shutdown", connections=cut)
        left_s = max(end_s - self._clock.monotonic(), _LEAST_STOP_S)
        await asyncio.gather(*[server.stop(left_s) for server in self._management])
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        if self._choosing is not None:
            await self._choosing.stop()
        if self._folders is not None:
            await self._folders.stop()
        if self.mesh is not None:
            await self.mesh.stop(max(end_s - self._clock.monotonic(), _LEAST_STOP_S))
        await self.serving.stop()
        await self.sources.stop()
        await self.instance.stop()
        await asyncio.to_thread(self._loader.stop)
        await self._store.close()
        self.sources.close()
        if self._loader.suspects is not None:
            self._loader.suspects.close()

    @property
    def _workers(self) -> int:
        """Processes that share the machine."""
        return self._inherited.workers if self._inherited else 1

    @property
    def waiting(self) -> int:
        return len(self.instance.tickets)

    # --- composition ----------------------------------------------------------------------------

    async def _open_store(self) -> Opened[Contents]:
        data_dir = self.settings.data_dir
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidSpecification(
                f"the data folder {data_dir} cannot be made: {error.strerror}; choose another with "
                "--data-dir"
            ) from None
        opened = await open_or_repair(
            self.settings.registry, data_dir, self._clock, read_contents
        )
        if (repair := opened.repair) is not None:
            models = sum(key.startswith(MODELS) for key in repair.kept)
            self._repair = (
                f"the registry was damaged ({repair.damage}); {models} models could still be read "
                "and are kept, others must be registered again; the damaged file is at "
                f"{repair.aside}"
            )
        return opened

    def _parts(self, opened: Opened[Contents]) -> Parts:
        return Parts(
            store=opened.store,
            contents=opened.contents,
            loader=self._loader,
            running=make_running(self.settings, self._workers),
            metrics=self.metrics,
            clock=self._clock,
            budget_bytes=self.budget_bytes,
            id=self.identity.id,
            pools=self.pools,
            accelerators=kinds_told(self.settings, self.pools),
            accelerated_formats=accelerated_formats(self.runtimes),
        )

    async def _listen(self) -> None:
        settings, identity = self.settings, self.identity
        inherited = self._inherited
        self.operations = Operations(
            self.instance, self.runtimes, self._configuration, identity,
            self.sources.named_credentials(self.instance),
            ServingOperations(
                self.serving, self.runtimes, self.instance.replica, self.instance.journal),
        )
        self._management = self._management_servers()
        if takes_part(settings, worker=inherited is not None):
            self.mesh = Mesh(self.instance, self._store, settings, self._about())
            await self.mesh.open()
        endpoints = Endpoints(
            self.instance, self.operations, self.mesh.links if self.mesh else None)
        self.operations.answering.counted = endpoints.counted_here
        methods = Service(self.instance, endpoints).methods
        self._http = Server(
            PublicApi(self.instance, endpoints), settings.http,
            listen=Listen(host=settings.host, port=settings.http.port,
                          common=inherited.http if inherited else None),
            on_error=_report,
        )
        self._grpc = GrpcServer(
            methods, settings.grpc,
            listen=Listen(host=settings.host, port=settings.grpc.port,
                          common=inherited.grpc if inherited else None),
            on_error=_report_call,
        )
        self.metrics.gauges = self._gauges
        self.metrics.accelerators = self._accelerators
        if self.mesh is not None:
            await self.mesh.start(self._handler(peer_handler(self.instance, endpoints, methods)))
            self.operations.join(self.mesh)
            self.serving.listeners.append(lambda _: self._offer())
            self._offer()
        for server in self._management:
            await server.start()
        await self._http.start()
        await self._grpc.start()
        identity.http_address = shown(*self._http.address)
        identity.grpc_address = shown(*self._grpc.address)
        identity.management_address = self._management[0].address

    def _offer(self) -> None:
        """Tell the others what this instance loads."""
        if self.mesh is not None:
            self.mesh.offer(self._offered())

    def _offered(self) -> tuple[str, ...]:
        return (*self.runtimes.formats(), *self.serving.offers())

    def _handler(self, requests: Handler) -> Handler:
        """What other instances are answered: clients' requests and operators' questions."""

        def handle(call: PeerCall) -> PeerReply | Awaitable[PeerReply]:
            if call.kind == MANAGEMENT:
                return self.operations.answering.answer(call)
            return requests(call)

        return handle

    def _about(self) -> About:
        """What other instances are told of this one."""
        shared = is_shared(self.settings.registry.url)
        inherited = self._inherited
        run_dir = inherited.run_dir if inherited else self.settings.data_dir / "run"
        return About(
            id=self.identity.id, formats=self._offered(),
            budget_bytes=self.budget_bytes,
            processors=usable_cpus() / self._workers,
            pools=self.pools, accelerators=kinds_told(self.settings, self.pools),
            folders=tuple(map(origin_of, self._given)), run_dir=None if shared else run_dir,
            shares_ports=self._inherited is not None,
        )

    def _management_servers(self) -> list[ManagementServer]:
        """The public one first. A worker has another for its siblings, which tells of it alone."""
        host = self.settings.management.host or self.settings.host
        own = create_app(self.operations, self.metrics.expose)
        if (inherited := self._inherited) is None:
            return [ManagementServer(own, host, self.settings.management.port)]
        self._page = PageOfAll(
            self.metrics.expose, number=inherited.number, workers=inherited.workers,
            run_dir=inherited.run_dir,
        )
        return [
            ManagementServer(
                create_app(self.operations, self._page.expose), host, sockets=inherited.management
            ),
            ManagementServer(own, sockets=[listen_privately(inherited.private_address, BACKLOG)]),
        ]

    def _gauges(self) -> Mapping[str, float]:
        view = self.operations.own.view()
        return {
            key: value for key, value in {
                "budget_bytes": view.budget_bytes,
                "used_bytes": view.used_bytes,
                "reserved_bytes": view.reserved_bytes,
                "process_bytes": view.process_bytes,
                "unbooked_bytes": self.instance.unbooked_bytes,
                "copies": view.copies,
                "waiting_requests": view.waiting_requests,
                "cache_age_s": view.cache_age_s,
                "pressure": view.pressure,
                "registered_models": len(self.instance.replica),
                "http_connections": self._http.connections if self._http else 0,
                "grpc_connections": self._grpc.connections if self._grpc else 0,
                "workers_unreachable": self._page.unreachable if self._page else None,
            }.items() if value is not None
        }

    def _accelerators(self) -> Mapping[tuple[str, str], int]:
        return {
            (pool.name, kind): value for pool in self.operations.own.pools()
            for kind, value in (
                ("budget", pool.budget_bytes), ("used", pool.used_bytes),
                ("reserved", pool.reserved_bytes), ("besides", pool.besides_bytes))
        }


def _report_call(error: BaseException, path: str) -> None:
    log.error("unexpected error", method="grpc", path=path, exc_info=error)


def _report(error: BaseException, request: Request) -> None:
    log.error("unexpected error", method=request.method, path=request.target, exc_info=error)
