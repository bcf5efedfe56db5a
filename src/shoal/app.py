"""The composition root: builds an instance from its settings, runs it, ends it in order."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import uvloop

import shoal
from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.grpc.server import GrpcServer
from shoal.dataplane.grpc.service import Service
from shoal.dataplane.http.api import PublicApi
from shoal.dataplane.http.message import Request
from shoal.dataplane.http.server import Server
from shoal.dataplane.listening import Listen
from shoal.domain.errors import InvalidSpecification
from shoal.management.api import create_app
from shoal.management.server import ManagementServer
from shoal.node.clock import SystemClock
from shoal.node.contents import MODELS, Contents, read_contents
from shoal.node.folders import Folders
from shoal.node.instance import Instance, Parts
from shoal.node.live import Running
from shoal.node.loader import Loader
from shoal.node.machine import (
    be_nice,
    run_soon_after_waking,
    tune_allocator,
    usable_cpus,
    usable_memory_bytes,
)
from shoal.node.operations import Identity, Operations
from shoal.node.threads import still_running
from shoal.observability.logs import configure_logs, get_logger
from shoal.observability.metrics import Metrics
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Configuration
from shoal.storage.folder import ModelFolder
from shoal.stores.open import Opened, open_or_repair

# Frameworks read these once, when they are imported: each would start a thread a processor.
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# How long a thread may keep the interpreter's lock while others want it. The event loop needs the
# lock anew for every request, so beside a model that computes in Python each would wait Python's
# 5 ms, several times. Less gains nothing more, as measured, and makes threads that compute in
# Python slower by taking turns: two of them already lose a third.
_SWITCH_INTERVAL_S: Final = 1e-4

# Of the event loop's thread: it runs for less than that, and soon, beside threads that compute.
_SLICE_S: Final = 1e-4

_THREADS_END_S: Final = 0.5  # what idle threads take to end
_LEAST_STOP_S: Final = 0.5  # for management to end, after inference took all the time

log = get_logger("shoal")


def serve(configuration: Configuration, folders: Sequence[Path]) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit status. Raises ShoalError when it cannot
    start."""
    settings = configuration.settings
    configure_logs(settings.log.level, settings.log.format)
    tune_allocator()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    run_soon_after_waking(_SLICE_S)
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, str(max(settings.request.framework_threads, 1)))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(configuration, folders))
    return 0


async def _serve(configuration: Configuration, folders: Sequence[Path]) -> None:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def ask_to_stop() -> None:
        if not stop.done():
            stop.set_result(None)

    files = ThreadPoolExecutor(thread_name_prefix="shoal-files")
    loop.set_default_executor(files)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop)
    app = App(configuration, folders)
    starting = loop.create_task(app.start())
    await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        await stop
        log.info("shutting down", requests_waiting=app.waiting)
        await app.stop()
    else:
        log.info("shutting down while starting")
        starting.cancel()
        await asyncio.wait({starting})
    files.shutdown(wait=False, cancel_futures=True)
    log.info("ended")
    _leave_behind_what_hangs()


def _leave_behind_what_hangs() -> None:
    """End the process here if a model's code or a file system does not give its thread back: the
    interpreter would wait for it for ever."""
    hanging = still_running("shoal-", within_s=_THREADS_END_S)
    if hanging:
        log.warning("some threads do not end and are left behind", threads=", ".join(hanging))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)


class App:
    """One instance with its servers. Also what tests start in their own loop."""

    def __init__(self, configuration: Configuration, folders: Sequence[Path] = ()) -> None:
        self.settings = settings = configuration.settings
        self._configuration = configuration
        self._paths = [path.expanduser().absolute() for path in folders]
        self._clock = SystemClock()
        self.runtimes = RuntimeRegistry.installed()
        self.metrics = Metrics(settings.metrics.per_model, settings.metrics.max_models)
        self.budget_bytes = settings.memory or round(
            usable_memory_bytes() * settings.cache.share
        )
        self._http: Server | None = None
        self._grpc: GrpcServer | None = None
        self._management: ManagementServer | None = None
        self._repair: str | None = None
        self._stopped = False

    async def start(self) -> None:
        """Listen and serve. Raises ShoalError; then nothing is left running."""
        opened = await self._open_store()
        self._store = opened.store
        self.instance = Instance(self.settings, self._parts(opened))
        if self._repair is not None:
            self.instance.note_registry_problem(self._repair)
        self._folders = Folders(self.instance, [
            ModelFolder(path, self.runtimes, settle_s=self.settings.folder.settle_s,
                        poll_s=self.settings.folder.poll_s, clock=self._clock)
            for path in self._paths
        ])
        try:
            await self.instance.start()
            await self._listen()
            await self._folders.start(watch=self.settings.folder.watch)
        except BaseException:
            await self.stop()
            raise
        self.instance.starting = False
        self.instance.fill()
        log.info(
            "serving", models=len(self.instance.replica),
            http=f"http://{self.identity.http_address}", grpc=self.identity.grpc_address,
            management=f"http://{self.identity.management_address}", budget_bytes=self.budget_bytes,
            formats=",".join(self.runtimes.formats()), version=shoal.__version__,
        )

    async def stop(self) -> None:
        """Accept no more, finish what has begun within `shutdown_timeout_s`, close everything."""
        if self._stopped:
            return
        self._stopped = True
        self.instance.drain()
        timeout_s = self.settings.shutdown_timeout_s
        end_s = self._clock.monotonic() + timeout_s
        # Who still waits for a load then is answered before the connections are cut.
        asyncio.get_running_loop().call_later(0.9 * timeout_s, self.instance.tickets.close)
        servers = [server for server in (self._http, self._grpc) if server is not None]
        cut = sum(await asyncio.gather(*[server.shutdown(timeout_s) for server in servers]))
        if cut:
            log.warning("requests cut off at shutdown", connections=cut)
        if self._management is not None:
            left_s = max(end_s - self._clock.monotonic(), _LEAST_STOP_S)
            await self._management.stop(left_s)
        await self._folders.stop()
        await self.instance.stop()
        await self._store.close()

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
            self.settings.registry.url, data_dir, self._clock, read_contents
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
        request, trust = self.settings.request, self.settings.trust
        threads = request.threads or max(16, 4 * usable_cpus())
        return Parts(
            store=opened.store,
            contents=opened.contents,
            loader=Loader(
                self.runtimes,
                trusted=(*self._paths, *map(Path, trust.locations)),
                trusted_types=trust.skops_types,
                framework_threads=max(request.framework_threads, 1),
            ),
            running=Running(
                pool=ThreadPoolExecutor(
                    threads, "shoal-predict", be_nice, (request.thread_niceness,)
                ),
                threads=threads,
                inline_limit_s=request.inline_limit_ms / 1e3,
                max_queued=request.max_queued_per_model,
                max_batch_rows=request.max_batch_rows,
                max_batch_delay_s=request.max_batch_delay_ms / 1e3,
            ),
            metrics=self.metrics,
            clock=self._clock,
            budget_bytes=self.budget_bytes,
        )

    async def _listen(self) -> None:
        settings = self.settings
        identity = Identity(
            id=settings.instance_id or f"{socket.gethostname()}-{secrets.token_hex(3)}",
            started_at=self._clock.wall(),
        )
        self.operations = Operations(
            self.instance, self.runtimes, self._configuration, identity
        )
        self._management = ManagementServer(
            create_app(self.operations, self.metrics.expose),
            settings.management.host or settings.host, settings.management.port,
        )
        endpoints = Endpoints(self.instance, self.operations)
        self._http = Server(
            PublicApi(self.instance, endpoints), settings.http,
            listen=Listen(host=settings.host, port=settings.http.port), on_error=_report,
        )
        self._grpc = GrpcServer(
            Service(self.instance, endpoints).methods, settings.grpc,
            listen=Listen(host=settings.host, port=settings.grpc.port), on_error=_report_call,
        )
        self.metrics.gauges = self._gauges
        await self._management.start()
        await self._http.start()
        await self._grpc.start()
        identity.http_address = _shown(self._http.address)
        identity.grpc_address = _shown(self._grpc.address)
        identity.management_address = self._management.address
        self.identity = identity

    def _gauges(self) -> Mapping[str, float]:
        view = self.operations.instances()[0]
        return {
            key: value for key, value in {
                "budget_bytes": view.budget_bytes,
                "used_bytes": view.used_bytes,
                "reserved_bytes": view.reserved_bytes,
                "process_bytes": view.process_bytes,
                "copies": view.copies,
                "waiting_requests": view.waiting_requests,
                "cache_age_s": view.cache_age_s,
                "pressure": view.pressure,
                "registered_models": len(self.instance.replica),
                "http_connections": self._http.connections if self._http else 0,
                "grpc_connections": self._grpc.connections if self._grpc else 0,
            }.items() if value is not None
        }


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _report_call(error: BaseException, path: str) -> None:
    log.error("unexpected error", method="grpc", path=path, exc_info=error)


def _report(error: BaseException, request: Request) -> None:
    log.error("unexpected error", method=request.method, path=request.target, exc_info=error)
