"""A TCP proxy on 127.0.0.1 that tests make fail."""

from __future__ import annotations

import asyncio
from typing import Self


class Cuttable:
    """Passes on connections to `target` (`host:port`) until told otherwise.

    `cut`: end all connections. `deaf`: what clients send is kept back. `mute`: what the target
    answers is kept back. `refusing`: new connections are ended at once.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = {"deaf": asyncio.Event(), "mute": asyncio.Event()}
        self.heal()
        self.refusing = False
        self.passed = asyncio.Event()  # something came from a client since it was cleared

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.endpoint = f"{host}:{port}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        self.heal()
        self.cut()
        await asyncio.sleep(0)

    def deaf(self) -> None:
        self._open["deaf"].clear()

    def mute(self) -> None:
        self._open["mute"].clear()

    def hang(self) -> None:
        self.deaf()
        self.mute()

    def heal(self) -> None:
        for each in self._open.values():
            each.set()

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            await asyncio.gather(
                self._pass(reader, back, "deaf"), self._pass(there, writer, "mute")
            )
        finally:
            self._writers -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, when: str
    ) -> None:
        try:
            while data := await reader.read(65536):
                await self._open[when].wait()
                writer.write(data)
                if when == "deaf":
                    self.passed.set()
                await writer.drain()
        except OSError:
            pass
        writer.transport.abort()
