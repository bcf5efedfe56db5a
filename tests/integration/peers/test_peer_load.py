"""Links between instances that have much to carry: fair, and bounded in memory."""

from __future__ import annotations

import asyncio
import socket

from tests.peer_node import MIB, PATIENCE_S, Make, ask, begin, body_of, until
from tests.peer_process import LIMITS, PeerProcess

from shoal.codecs.peer import Requesting
from shoal.dataplane.peer import (
    HTTP,
    Hello,
    Limits,
    LinkOptions,
    PeerCall,
)


class TestLoad:
    async def test_small_requests_stay_quick_beside_a_large_body(
        self, node: Make, path: str
    ) -> None:
        a = node("a", LinkOptions())
        with PeerProcess("b", path) as b:
            link = await a.reach("b", b.address)
            large = [begin(link, body=bytes(64 * MIB))[1] for _ in range(2)]
            meanwhile = 0
            while not all(each.done() for each in large):
                assert body_of(await ask(link)) == b"body"
                meanwhile += 1
            assert [len(body_of(each.result())) for each in large] == [64 * MIB] * 2
            assert meanwhile > 20  # each behind a part of the large ones, not behind all

    async def test_bodies_in_flight_do_not_fill_the_other_sides_memory(
        self, node: Make, path: str
    ) -> None:
        """Ten times 32 MiB are for a handler that does not answer: five of them are taken."""
        a = node("a", LinkOptions(limits=Limits(max_held_bytes=1024 * MIB)))
        with PeerProcess("b", path) as b:
            link = await a.reach("b", b.address)
            before = int(body_of(await ask(link, "memory")))
            body = bytes(32 * MIB)
            waiting = [begin(link, "wait", body) for _ in range(10)]
            await ask(link, "size 16777216")
            for stream, _ in waiting[:2]:
                link.cancel(stream)
            await ask(link, "size 16777216")
            grown = int(body_of(await ask(link, "memory"))) - before
            assert grown < LIMITS.max_held_bytes + 64 * MIB

    async def test_who_does_not_read_is_not_written_for_without_end(
        self, node: Make, path: str
    ) -> None:
        b = node("b", LinkOptions())
        await b.server.listen(path)
        caller = Requesting(Hello(instance="a", mesh="sea"), "b", Limits(), print)
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, path.removeprefix("unix:"))
        await loop.sock_sendall(sock, caller.take())
        caller.receive(await loop.sock_recv(sock, 1000))
        call = PeerCall(HTTP, "echo", b"", bytes(10_000))
        assert all(caller.request(call, lambda reply: None) for _ in range(1500))
        sending = asyncio.ensure_future(loop.sock_sendall(sock, caller.take()))
        handled = -1
        while len(b.started) != handled:  # until nothing more is taken
            handled = len(b.started)
            await asyncio.sleep(0.05)
        assert not sending.done()
        assert handled < 1000
        while caller.in_flight:
            caller.receive(await asyncio.wait_for(loop.sock_recv(sock, MIB), PATIENCE_S))
        await sending
        assert len(b.started) == 1500
        sock.close()

    async def test_a_peer_that_does_not_read_gets_no_more_requests(
        self, node: Make, path: str
    ) -> None:
        a = node("a", LinkOptions(limits=Limits(max_queued_bytes=1 * MIB)))
        with PeerProcess("b", path) as b:
            link = await a.reach("b", b.address)
            b.pause()
            taken = 0
            while link.request(PeerCall(HTTP, "echo", b"", bytes(60_000)), lambda _: None):
                taken += 1
                await asyncio.sleep(0)
            assert 5 < taken < 60
            assert not link.send_message(b"neither")
            b.resume()
            await until(lambda: not link.in_flight, "the answers")
            assert body_of(await ask(link)) == b"body"
