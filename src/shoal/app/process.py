"""The process of an instance: how it is set up for serving, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import uvloop

from shoal.app.server import App
from shoal.isolation.variables import THREADS
from shoal.node.machine import run_soon_after_waking, tune_allocator
from shoal.node.threads import still_running
from shoal.observability.logs import configure_logs, get_logger
from shoal.settings import Configuration
from shoal.workers.inherited import Inherited

# How long a thread may keep the interpreter's lock while others want it. The event loop needs the
# lock anew for every request, so beside a model that computes in Python each would wait Python's
# 5 ms, several times. Less gains nothing more, as measured, and makes threads that compute in
# Python slower by taking turns: two of them already lose a third.
_SWITCH_INTERVAL_S: Final = 1e-4

# Of the event loop's thread: it runs for less than that, and soon, beside threads that compute.
_SLICE_S: Final = 1e-4

_THREADS_END_S: Final = 0.5  # what idle threads take to end

log = get_logger("shoal")


def serve(
    configuration: Configuration, folders: Sequence[str], inherited: Inherited | None = None
) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit status. Raises ShoalError when it cannot
    start. inherited: of a worker, what it has from its supervisor."""
    settings = configuration.settings
    configure_logs(
        settings.log.level, settings.log.format, worker=inherited.number if inherited else None
    )
    tune_allocator()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    run_soon_after_waking(_SLICE_S)
    for variable in THREADS:
        os.environ.setdefault(variable, str(max(settings.request.framework_threads, 1)))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(configuration, folders, inherited))


async def _serve(
    configuration: Configuration, folders: Sequence[str], inherited: Inherited | None
) -> int:
    """The exit status."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def ask_to_stop() -> None:
        if not stop.done():
            stop.set_result(None)

    files = ThreadPoolExecutor(thread_name_prefix="shoal-files")
    loop.set_default_executor(files)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop)
    if inherited is not None:
        inherited.channel.watch(ask_to_stop)
        inherited.channel.beat()
    app = App(configuration, folders, inherited)
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
    status = app.recycling.exit_status if app.recycling is not None else 0
    log.info("ended")
    _leave_behind_what_hangs(status)
    return status


def _leave_behind_what_hangs(status: int) -> None:
    """End the process here if a model's code or a file system does not give its thread back: the
    interpreter would wait for it for ever."""
    hanging = still_running("shoal-", within_s=_THREADS_END_S)
    if hanging:
        log.warning("some threads do not end and are left behind", threads=", ".join(hanging))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
