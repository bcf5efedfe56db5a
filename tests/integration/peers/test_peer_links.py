"""Links between instances over real sockets, on uvloop and on asyncio's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from pathlib import Path

import pytest
from tests.peer_node import MIB, PATIENCE_S, Make, Node, ask, begin, body_of, until
from tests.peer_process import PeerProcess

from shoal.codecs.peer import Requesting
from shoal.codecs.peer.hello import hello_frame
from shoal.dataplane.peer import (
    HTTP,
    Hello,
    Limits,
    LinkOptions,
    Lost,
    Outcome,
    PeerCall,
    PeerReply,
    ServerEvents,
)
from shoal.domain.errors import InvalidSpecification


class TestRequests:
    @pytest.mark.parametrize("address", ["unix", "tcp:127.0.0.1:0", "[::1]:0"])
    async def test_are_answered(self, node: Make, path: str, address: str) -> None:
        a, b = node("a"), node("b")
        got = await b.server.listen(path if address == "unix" else address)
        link = await a.reach("b", got)
        assert await ask(link) == PeerReply(Outcome.ANSWERED, b"head", [b"body"])
        assert a.ups == ["b"]
        assert link.peer == Hello(instance="b", mesh="sea", version="1.0")
        assert b.started[0].peer == "a"

    async def test_a_thousand_at_once(self, node: Make, path: str) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        answers = [begin(link, "wait", b"%d" % i)[1] for i in range(1000)]
        await until(lambda: len(b.started) == 1000, "all to arrive")
        assert link.in_flight == 1000
        b.release.set()
        got = await asyncio.wait_for(asyncio.gather(*answers), PATIENCE_S)
        assert [body_of(each) for each in got] == [b"%d" % i for i in range(1000)]
        assert link.in_flight == 0

    @pytest.mark.parametrize("size", [100_000, 16 * MIB + 1])
    async def test_large_bodies_go_and_come_back(self, node: Make, path: str, size: int) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        body = os.urandom(size)
        assert body_of(await ask(link, body=body)) == body

    @pytest.mark.parametrize("revision", ["fail", "fail later", "cancel itself", "huge head"])
    async def test_a_handler_that_fails_is_reported(
        self, node: Make, path: str, revision: str
    ) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        answer = await ask(link, revision)
        assert isinstance(answer, PeerReply)
        assert answer.outcome is Outcome.FAILED
        assert len(b.errors) == (revision != "cancel itself")
        assert body_of(await ask(link)) == b"body"

    async def test_cancelling_one_stops_its_handler(self, node: Make, path: str) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        stream, answer = begin(link, "wait")
        await until(lambda: b.started, "the call")
        link.cancel(stream)
        await until(lambda: b.cancelled, "the cancellation")
        assert body_of(await ask(link)) == b"body"
        assert not answer.done()
        assert link.in_flight == 0

    async def test_messages_arrive_in_order(self, node: Make, path: str) -> None:
        a, b = node("a"), node("b")
        await a.reach("b", await b.server.listen(path))
        sent = [b"%d" % i for i in range(100)] + [bytes(16 * MIB)]
        assert all(a.links.tell("b", message) for message in sent)
        assert not a.links.tell("c", b"nobody")
        await until(lambda: len(b.messages) == len(sent), "all messages")
        assert b.messages == [("a", message) for message in sent]

    async def test_a_message_that_cannot_be_handled_is_reported(
        self, node: Make, path: str
    ) -> None:
        a, b = node("a"), node("b")

        def fail(peer: str, message: bytes) -> None:
            raise RuntimeError(f"no thanks, {peer}")

        b.server._events = ServerEvents(
            on_message=fail, on_error=lambda error: b.errors.append(str(error))
        )
        link = await a.reach("b", await b.server.listen(path))
        assert link.send_message(b"?")
        await until(lambda: b.errors == ["no thanks, a"], "the report")
        assert body_of(await ask(link)) == b"body"


class TestTrouble:
    async def test_a_process_killed_in_mid_request_is_told_lost(
        self, node: Make, path: str
    ) -> None:
        a = node("a")
        with PeerProcess("b", path) as b:
            link = await a.reach("b", b.address)
            _, waiting = begin(link, "wait")
            await ask(link)
            b.kill()
            answer = await asyncio.wait_for(waiting, PATIENCE_S)
            assert isinstance(answer, Lost)
            assert answer.written
            await until(lambda: a.downs, "the loss")
            assert a.links.link("b") is None
            assert link.request(PeerCall(HTTP, "m", b"", b""), print) is None

    async def test_a_process_that_comes_back_is_reached_again(self, node: Make, path: str) -> None:
        a = node("a")
        with PeerProcess("b", path) as b:
            await a.reach("b", b.address)
            b.kill()
        await until(lambda: a.unreachable, "a failed attempt")
        assert "refused" in a.unreachable[0]
        with PeerProcess("b", path):
            await until(lambda: len(a.ups) == 2, "a new link")
            link = a.links.link("b")
            assert link is not None
            assert body_of(await ask(link)) == b"body"
        assert len(a.unreachable) == 1

    async def test_a_stopped_process_is_noticed_and_comes_back(
        self, node: Make, path: str
    ) -> None:
        a = node("a")
        with PeerProcess("b", path) as b:
            link = await a.reach("b", b.address)
            b.pause()
            answer = await ask(link)
            assert answer == Lost(True, "nothing came for 1 s")
            assert a.downs == [("b", "nothing came for 1 s")]
            await until(lambda: a.unreachable, "an attempt")
            assert "does not answer" in a.unreachable[0]
            b.resume()
            await until(lambda: a.links.link("b"), "a new link")

    async def test_a_silent_caller_is_cut_and_its_calls_cancelled(
        self, node: Make, path: str
    ) -> None:
        b = node("b")
        await b.server.listen(path)
        caller = Requesting(Hello(instance="a", mesh="sea"), "b", Limits(), print)
        reader, writer = await asyncio.open_unix_connection(path.removeprefix("unix:"))
        writer.write(caller.take())
        caller.receive(await reader.read(1000))
        caller.request(PeerCall(HTTP, "wait", b"", b""), print)
        writer.write(caller.take())
        assert await reader.read() == b""
        await until(lambda: b.cancelled == 1, "the cancellation")
        assert b.faults == ["the link from instance a was cut: nothing came for 1 s"]
        writer.close()

    async def test_an_idle_link_stays(self, node: Make, path: str) -> None:
        options = LinkOptions(ping_s=0.02, silence_s=0.06)
        a, b = node("a", options), node("b", options)
        link = await a.reach("b", await b.server.listen(path))
        (served,) = b.server._links
        looks = served.looks
        await until(lambda: served.looks > looks + 15, "five times the silence")
        assert a.downs == []
        assert b.faults == []
        assert body_of(await ask(link)) == b"body"

    async def test_a_loop_that_was_held_up_does_not_cut_its_links(
        self, node: Make, path: str
    ) -> None:
        """What came meanwhile is still in the socket when the timers are due."""
        a = node("a", LinkOptions(ping_s=0.1, silence_s=1.0))
        with PeerProcess("b", path) as b:
            link = await a.reach("b", b.address)
            for _ in range(2):
                time.sleep(1.2)  # noqa: ASYNC251
                assert body_of(await ask(link)) == b"body"
            assert a.downs == []

    async def test_one_that_is_no_member_any_more_answers_what_it_was_asked(
        self, node: Make, path: str
    ) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        _, answer = begin(link, "wait")
        await until(lambda: b.started, "the call")
        a.links.set_members({})
        assert a.links.link("b") is None
        assert [peer for peer, _ in a.downs] == ["b"]
        b.release.set()
        assert body_of(await answer) == b"body"
        await until(lambda: not b.server.links, "the end of the link")
        assert len(a.downs) == 1

    async def test_a_new_address_is_reached(self, node: Make, path: str) -> None:
        a, b = node("a"), node("b")
        old, new = await b.server.listen(path), await b.server.listen("tcp:127.0.0.1:0")
        await a.reach("b", old)
        a.links.set_members({"b": old, "a": "unix:/ourselves"})
        assert a.downs == []
        link = await a.reach("b", new)
        assert body_of(await ask(link)) == b"body"
        assert (a.ups, len(a.downs)) == (["b", "b"], 1)

    async def test_a_wrong_address_does_not_keep_the_others_away(
        self, node: Make, path: str
    ) -> None:
        a, b = node("a"), node("b")
        await b.server.listen(path)
        wrong = a.links.set_members({"c": "nowhere", "b": path})
        assert list(wrong) == ["c"]
        assert "instance 'c' cannot be reached: 'nowhere' is no peer address" in wrong["c"]
        await until(lambda: a.links.link("b"), "a link")
        assert a.links.up == ["b"]

    async def test_one_that_is_let_go_while_it_introduces_itself_is_not_taken_for_up(
        self, node: Make, path: str
    ) -> None:
        a, b = node("a", LinkOptions(silence_s=600.0)), node("b")
        greeting: list[asyncio.StreamWriter] = []
        mute = await asyncio.start_unix_server(
            lambda _, writer: greeting.append(writer), path.removeprefix("unix:"))
        a.links.set_members({"b": path})
        await until(lambda: greeting and all(each.connected for each in a.links._links), "a link")
        (link,) = a.links._links
        a.links.set_members({})
        link.data_received(hello_frame(b.server.hello))  # in the same turn of the loop
        await until(lambda: not a.links._links, "the end of the link")
        assert a.links.up == []
        greeting[0].close()
        mute.close()

    async def test_closing_at_any_moment_of_dialling_is_quick_and_quiet(
        self, node: Make, path: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            for turns in range(12):  # of the event loop; it is connected after three
                a = node(f"a{turns}", LinkOptions())
                a.links.set_members({"b": f"127.0.0.1:{mute.getsockname()[1]}", "c": path})
                for _ in range(turns):
                    await asyncio.sleep(0)
                async with asyncio.timeout(0.9):  # less than transports are waited for
                    await a.links.close()
                assert not a.links._links


class TestWhoItIs:
    async def refusal(self, node: Make, path: str, b: Node, at: str = "b") -> str:
        a = node("a")
        a.links.set_members({at: await b.server.listen(path)})
        await until(lambda: a.unreachable, "the refusal")
        assert a.ups == []
        return a.unreachable[0]

    async def test_another_mesh_is_no_peer(self, node: Make, path: str) -> None:
        b = node("b", mesh="lake")
        assert "belongs to mesh 'lake'" in await self.refusal(node, path, b)
        await until(lambda: b.faults, "the report")
        assert "belongs to mesh 'sea'" in b.faults[0]

    async def test_another_instance_at_the_address_is_not_taken_for_it(
        self, node: Make, path: str
    ) -> None:
        why = await self.refusal(node, path, node("z"))
        assert why.endswith("instance z answers where b should")

    async def test_no_common_protocol_names_both_versions(self, node: Make, path: str) -> None:
        b = node("b")
        b.server.hello = Hello(instance="b", mesh="sea", version="9.0", lowest=8, highest=9)
        why = await self.refusal(node, path, b)
        assert "instance a (Shoal 1.0) speaks the peer protocols 1 to 1" in why
        assert "b (Shoal 9.0) 8 to 9" in why

    async def test_a_stranger_is_told_and_cut(self, node: Make) -> None:
        b = node("b")
        address = await b.server.listen("127.0.0.1:0")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.split(":")[-1]))
        writer.write(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
        assert b"is this the address of another program?" in await reader.read()
        assert b.faults[0].startswith("the link from somebody was cut")
        writer.close()

    async def test_who_never_introduces_himself_is_cut(self, node: Make, path: str) -> None:
        b = node("b", LinkOptions(ping_s=0.02, silence_s=0.2, greet_s=0.1))
        await b.server.listen(path)
        reader, writer = await asyncio.open_unix_connection(path.removeprefix("unix:"))

        async def trickle() -> None:
            for byte in b"\x10\0\0\0\1\0\0\0\0\0\0\0\0":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.ensure_future(trickle())
        await until(lambda: b.faults, "the cut")
        trickling.cancel()
        assert "did not introduce itself" in b.faults[0]
        with contextlib.suppress(BrokenPipeError):
            assert await reader.read() == b""
        writer.close()


class TestUnixSocket:
    async def test_is_for_this_user_alone_and_goes_with_the_server(
        self, node: Make, tmp_path: Path
    ) -> None:
        b = node("b")
        path = tmp_path / "run" / "b.sock"
        await b.server.listen(f"unix:{path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        await b.server.shutdown(0)
        assert not path.exists()

    async def test_one_left_behind_is_replaced(self, node: Make, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path.removeprefix("unix:"))
        assert await node("b").server.listen(path) == path

    async def test_one_in_use_is_an_error(self, node: Make, path: str) -> None:
        await node("b").server.listen(path)
        with pytest.raises(InvalidSpecification, match="another process listens"):
            await node("c").server.listen(path)

    async def test_a_file_in_the_way_is_an_error(self, node: Make) -> None:
        with pytest.raises(InvalidSpecification, match="it is a file, not a socket"):
            await node("b").server.listen(f"unix:{__file__}")

    async def test_too_long_a_path_is_an_error(self, node: Make) -> None:
        with pytest.raises(InvalidSpecification, match="choose a shorter folder"):
            await node("b").server.listen("unix:/tmp/" + "x" * 200)

    async def test_a_taken_port_is_an_error(self, node: Make) -> None:
        address = await node("b").server.listen("127.0.0.1:0")
        with pytest.raises(InvalidSpecification, match=r"tcp:.* in use.*--mesh-listen"):
            await node("c").server.listen(address)


class TestTheEnd:
    async def test_a_server_that_leaves_answers_first(self, node: Make, path: str) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        _, answer = begin(link, "wait")
        await until(lambda: b.started, "the call")
        leaving = asyncio.ensure_future(b.server.shutdown(PATIENCE_S))
        await until(lambda: a.links.link("b") is None, "the word")
        assert link.leaving == "the instance is shutting down"
        assert a.links.tell("b", b"still heard")
        await until(lambda: b.messages, "the message")
        assert a.downs == []
        b.release.set()
        assert body_of(await answer) == b"body"
        assert await leaving == 0
        await until(lambda: a.downs, "the end of the link")
        assert a.downs == [("b", "the instance is shutting down")]

    async def test_a_request_that_crosses_is_refused(self, node: Make, path: str) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        begin(link, "wait")
        await until(lambda: b.started, "the call")
        _, crossing = begin(link)
        leaving = asyncio.ensure_future(b.server.shutdown(PATIENCE_S))
        answer = await crossing
        assert isinstance(answer, PeerReply)
        assert answer.outcome is Outcome.REFUSED
        b.release.set()
        await leaving

    async def test_what_lasts_too_long_is_cut(self, node: Make, path: str) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        _, answer = begin(link, "wait")
        await until(lambda: b.started, "the call")
        assert await b.server.shutdown(0.01) == 1
        assert isinstance(await answer, Lost)
        await until(lambda: b.cancelled == 1, "the cancellation")

    async def test_closing_our_links_tells_who_waits(self, node: Make, path: str) -> None:
        a, b = node("a"), node("b")
        link = await a.reach("b", await b.server.listen(path))
        _, answer = begin(link, "wait")
        await until(lambda: b.started, "the call")
        await a.links.close()
        assert await answer == Lost(True, "this instance is shutting down")
        await until(lambda: b.cancelled == 1, "the cancellation")
