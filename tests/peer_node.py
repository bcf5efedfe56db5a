"""An instance that is nothing but its links, for tests of these."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable

from shoal.dataplane.peer import (
    HTTP,
    Hello,
    LinkEvents,
    LinkOptions,
    Lost,
    Outcome,
    PeerCall,
    PeerLink,
    PeerLinks,
    PeerReply,
    PeerServer,
    ServerEvents,
)

MIB = 1024**2
PATIENCE_S = 20.0
QUICK = LinkOptions(
    ping_s=0.1, silence_s=1.0, greet_s=1.0, redial_least_s=0.01, redial_most_s=0.05
)

Answer = PeerReply | Lost


class Node:
    """An instance: a server and links, and what they were told. `release` lets `wait` answer."""

    def __init__(self, instance: str, options: LinkOptions = QUICK, *, mesh: str = "sea",
                 tls: ssl.SSLContext | None = None) -> None:
        hello = Hello(instance=instance, mesh=mesh, version="1.0")
        self.ups: list[str] = []
        self.downs: list[tuple[str, str]] = []
        self.unreachable: list[str] = []
        self.messages: list[tuple[str, bytes]] = []
        self.errors: list[str] = []
        self.faults: list[str] = []
        self.started: list[PeerCall] = []
        self.cancelled = 0
        self.release = asyncio.Event()
        self.server = PeerServer(
            self.handle, hello, ServerEvents(
                on_message=lambda peer, message: self.messages.append((peer, message)),
                on_error=lambda error: self.errors.append(str(error)),
                on_fault=self.faults.append,
            ), options,
        )
        self.links = PeerLinks(
            hello, LinkEvents(
                on_up=self.ups.append,
                on_down=lambda peer, why: self.downs.append((peer, why)),
                on_unreachable=lambda _, why: self.unreachable.append(why),
            ), options, tls=tls,
        )

    def handle(self, call: PeerCall) -> PeerReply | Awaitable[PeerReply]:
        self.started.append(call)
        if call.revision == "fail":
            raise RuntimeError("as it was asked to")
        if call.revision == "huge head":
            return PeerReply(Outcome.ANSWERED, bytes(100_000))
        if call.revision in ("wait", "fail later", "cancel itself"):
            return self.later(call)
        return PeerReply(Outcome.ANSWERED, call.head, [call.body])

    async def later(self, call: PeerCall) -> PeerReply:
        if call.revision == "fail later":
            raise RuntimeError("as it was asked to, later")
        if call.revision == "cancel itself":
            raise asyncio.CancelledError
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return PeerReply(Outcome.ANSWERED, b"", [call.body])

    async def reach(self, instance: str, address: str) -> PeerLink:
        self.links.set_members({instance: address})
        await until(lambda: self.links.link(instance), "a link")
        link = self.links.link(instance)
        assert link is not None
        return link

    async def close(self) -> None:
        await self.links.close()
        await self.server.shutdown(0.05)


async def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.002)


def begin(link: PeerLink, revision: str = "echo", body: bytes = b"body"
          ) -> tuple[int, asyncio.Future[Answer]]:
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    stream = link.request(PeerCall(HTTP, revision, b"head", body), answer.set_result)
    assert stream is not None
    return stream, answer


async def ask(link: PeerLink, revision: str = "echo", body: bytes = b"body") -> Answer:
    return await asyncio.wait_for(begin(link, revision, body)[1], PATIENCE_S)


def body_of(answer: Answer) -> bytes:
    assert isinstance(answer, PeerReply), answer
    return b"".join(answer.body)


Make = Callable[..., Node]
