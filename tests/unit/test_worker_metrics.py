"""One page of metrics for all workers, whatever becomes of some of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shoal.workers import metrics
from shoal.workers.metrics import OWN, PageOfAll
from shoal.workers.plan import private_address

TYPE = "text/plain; version=0.0.4"
Serve = Callable[[int, bytes], Awaitable[list[bytes]]]


def page(value: float) -> bytes:
    return f"# HELP a A.\n# TYPE a gauge\na {value}\n".encode()


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Let worker `number` say `said` to whoever comes; what it was asked."""
    async with AsyncExitStack() as stack:

        async def serve(number: int, said: bytes) -> list[bytes]:
            heard: list[bytes] = []

            async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                stack.callback(writer.close)
                heard.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(said)
                if said:
                    writer.close()

            await stack.enter_async_context(
                await asyncio.start_unix_server(speak, str(private_address(tmp_path, number)))
            )
            return heard

        yield serve


def of_all(tmp_path: Path, workers: int) -> PageOfAll:
    def expose(accept: str) -> tuple[bytes, str]:
        missing = f"# HELP {OWN} M.\n# TYPE {OWN} gauge\n{OWN} {asked.unreachable}\n"
        return page(1) + missing.encode(), TYPE

    asked = PageOfAll(expose, number=1, workers=workers, run_dir=tmp_path)
    return asked


async def test_every_worker_is_on_the_page(tmp_path: Path, serve: Serve) -> None:
    heard = await serve(2, answer(page(2)))
    body, content_type = await of_all(tmp_path, 2).expose("text/plain")
    assert body.decode().splitlines()[2:4] == ['a{worker="1"} 1', 'a{worker="2"} 2']
    assert content_type == TYPE
    assert b"\r\nAccept: text/plain\r\n" in heard[0]


async def test_who_is_missing_is_counted(tmp_path: Path, serve: Serve) -> None:
    await serve(2, answer(page(2)))
    await serve(3, answer(b"trouble", "500 Internal Server Error"))
    await serve(4, answer(page(4))[:-3])
    await serve(5, b"\n")
    body, _ = await of_all(tmp_path, 6).expose("")
    assert body.decode().splitlines()[-1] == f"{OWN} 4"
    assert b'worker="2"' in body
    assert b'worker="3"' not in body


async def test_who_hangs_is_not_waited_for(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_TIMEOUT_S", 0.01)
    await serve(2, b"")
    body, _ = await of_all(tmp_path, 2).expose("")
    assert body.decode().splitlines()[-1] == f"{OWN} 1"


async def test_its_own_page_says_nothing_of_others(tmp_path: Path) -> None:
    asked = of_all(tmp_path, 2)
    await asked.expose("")
    assert asked.unreachable is None
