"""The real management API over a fake instance, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.fake_control import FakeControl

from shoal.domain.model import ModelSpec
from shoal.management.api import create_app
from shoal.management.server import ManagementServer


@dataclass
class Managed:
    address: str
    control: FakeControl


@contextmanager
def managed(*specs: ModelSpec) -> Iterator[Managed]:
    started, stop = threading.Event(), threading.Event()
    found: list[Managed] = []

    async def serve() -> None:
        control = FakeControl(*specs)
        app = create_app(control, lambda _accept: (b"", "text/plain"))
        server = ManagementServer(app, "127.0.0.1", 0)
        await server.start()
        found.append(Managed(f"http://{server.address}", control))
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.stop(timeout_s=0.0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield found[0]
    finally:
        stop.set()
        thread.join(10)
