"""A million frames, right, mutated and random, for the HTTP/2 connection: none may make it fail.

Everything follows from the seed. After every read: no exception, bounded memory, whole frames out,
nothing said after the end; and no read may take long. `--frames`, `--seed`.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import time
from collections.abc import Iterator
from typing import Final

from hpack import Encoder

from shoal.codecs.http2 import (
    ConnectionEnded,
    ErrorCode,
    Event,
    Options,
    RequestReceived,
    ServerConnection,
    encode_headers,
)
from shoal.codecs.http2.frames import PREFACE, frame, settings_frame

SEED: Final = 20_261_121
FRAMES: Final = 1_000_000
SLOWEST_S: Final = 1.0  # of the processor, for one read

REQUEST: Final = (
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/inference/ModelInfer"),
    (b":authority", b"127.0.0.1"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
)  # fmt: skip
BLOCKS: Final = (
    encode_headers(REQUEST), encode_headers([*REQUEST, (b"content-length", b"100")]),
    encode_headers([*REQUEST, (b"grpc-timeout", b"1S")]), encode_headers(REQUEST),
)  # fmt: skip
ANSWER: Final = encode_headers([(b":status", b"200")])
TRAILERS: Final = encode_headers([(b"grpc-status", b"0")])
LIMITS: Final = Options(
    max_streams=100, max_header_list_bytes=2_000, max_header_block_bytes=4_000,
    max_header_caches=8, max_frame_bytes=2**14, stream_window=65_535, connection_window=200_000,
    max_body_bytes=100_000, reset_burst=100, chatter_burst=1_000, max_control_bytes=5_000,
)  # fmt: skip
LARGE: Final = bytes(50_000)


class Conversation:
    """One connection, a client that is wrong now and then, a server that answers somehow."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.connection = ServerConnection(LIMITS)
        self.encoder = Encoder()
        self.next_stream = 1
        self.open: list[int] = []  # as the client sees it
        self.asked: list[int] = []  # requests that wait for something
        self.given = 0  # bytes of answers
        self.now = 0.0
        self.wrong = chance.choice((0.0, 0.002, 0.02, 0.2))
        self.lazy = chance.random() < 0.2  # the transport takes rarely

    # --- what a client sends -----------------------------------------------------------------

    def frames(self, count: int) -> Iterator[bytes]:
        chance = self.chance
        yield PREFACE + settings_frame({4: chance.choice((0, 10, 2**16, 2**20))})
        makers = (
            self.request, self.request, self.request, self.data, self.data, self.trailers,
            self.window, self.window, self.reset, self.control, self.split_request,
        )  # fmt: skip
        for _ in range(count):
            each = chance.choice(makers)() if chance.random() >= self.wrong else self.nonsense()
            if chance.random() < self.wrong:
                each = self.mutated(each)
            yield each

    def block(self) -> bytes:
        chance = self.chance
        kind = chance.randrange(20)
        if kind < 14:
            return BLOCKS[kind % len(BLOCKS)]
        if kind < 16:
            return BLOCKS[0] + b"\x40\x01x\x08%08d" % self.next_stream  # enters the table
        if kind < 18:
            return BLOCKS[0] + encode_headers([(b"x-id", b"%d" % self.next_stream)])
        more = (b"x", b"v" * chance.choice((5, 50, 1_500, 2_500)))
        return self.encoder.encode((*REQUEST, more), huffman=kind == 18)

    def request(self) -> bytes:
        stream = self.next_stream
        self.next_stream += 2
        ends = self.chance.random() < 0.5
        head = frame(1, 5 if ends else 4, stream, self.block())
        if ends:
            return head
        if self.chance.random() < 0.7:
            return head + frame(0, 1, stream, bytes(self.chance.randrange(200)))
        self.open.append(stream)
        return head

    def split_request(self) -> bytes:
        stream = self.next_stream
        self.next_stream += 2
        block = self.block()
        cut = self.chance.randrange(len(block))
        padded = self.chance.random() < 0.5
        first = b"\3" + block[:cut] + b"\0\0\0" if padded else block[:cut]
        return frame(1, 9 if padded else 1, stream, first) + frame(9, 4, stream, block[cut:])

    def some_stream(self) -> int:
        return self.chance.choice((0, 1, 2, self.next_stream, self.an_opened(), 99_999))

    def an_opened(self) -> int:
        if self.open and self.chance.random() < 0.5:
            return self.chance.choice(self.open)
        return self.chance.randrange(1, self.next_stream, 2) if self.next_stream > 1 else 0

    def data(self) -> bytes:
        if not self.open:
            return self.request()
        stream = self.chance.choice(self.open)
        ends = self.chance.random() < 0.3
        if ends:
            self.open.remove(stream)
        size = self.chance.choice((0, 1, 100, 1_000, 9_000, 16_384))
        if size and self.chance.random() < 0.2:
            return frame(0, 8 | ends, stream, b"\0" + bytes(size - 1))
        return frame(0, int(ends), stream, bytes(size))

    def trailers(self) -> bytes:
        if not self.open:
            return self.request()
        stream = self.open.pop(self.chance.randrange(len(self.open)))
        return frame(1, 5, stream, self.encoder.encode([(b"x-end", b"1")]))

    def window(self) -> bytes:
        stream = self.chance.choice((0, self.an_opened()))
        return frame(8, 0, stream, struct.pack(">I", self.chance.choice((1, 100, 10**5, 10**6))))

    def reset(self) -> bytes:
        if not self.open:
            return self.request()
        stream = self.open.pop(self.chance.randrange(len(self.open)))
        return frame(3, 0, stream, struct.pack(">I", self.chance.randrange(15)))

    def control(self) -> bytes:
        setting = self.chance.choice((
            {1: 0}, {1: 4096}, {2: 0}, {3: 5}, {4: 0}, {4: 2**16}, {4: 2**20}, {5: 2**14},
            {5: 2**15}, {99: 1},
        ))  # fmt: skip
        return self.chance.choice((
            frame(6, 0, 0, bytes(8)), frame(6, 1, 0, bytes(8)), settings_frame(setting),
            frame(4, 1, 0), frame(2, 0, self.next_stream, bytes(5)), frame(0xEE, 3, 5, b"?"),
            frame(7, 0, 0, bytes(12)),
        ))  # fmt: skip

    def nonsense(self) -> bytes:
        chance = self.chance
        kind = chance.randrange(12)
        size = chance.choice((0, 1, 4, 5, 6, 8, 9, 17, 300))
        return frame(kind, chance.randrange(256), self.some_stream(), chance.randbytes(size))

    def mutated(self, sent: bytes) -> bytes:
        changed = bytearray(sent)
        for _ in range(self.chance.randrange(1, 4)):
            changed[self.chance.randrange(len(changed))] = self.chance.randrange(256)
        return bytes(changed)

    # --- what a server does ------------------------------------------------------------------

    def answer(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, RequestReceived):
                self.asked.append(event.stream)
        while self.asked and self.chance.random() < 0.95:
            self.act(self.asked.pop(self.chance.randrange(len(self.asked))))

    def act(self, stream: int) -> None:
        connection, chance = self.connection, self.chance
        what = chance.randrange(8)
        if what < 4:
            part = b"answer" if what else LARGE
            if connection.respond(stream, ANSWER, (part,), TRAILERS):
                self.given += len(part) + 100
            else:  # gone, or begun before
                connection.send_trailers(stream, TRAILERS)
        elif what == 4:
            connection.reset(stream, ErrorCode.CANCEL)
        elif what == 5:
            connection.hold(stream)
            self.asked.append(stream)
        elif what == 6:
            connection.acknowledge(stream, chance.randrange(70_000))
            self.asked.append(stream)
        elif connection.send_headers(stream, ANSWER) and connection.send_data(stream, (b"part",)):
            self.given += 200
            self.asked.append(stream)

    # --- what must hold ------------------------------------------------------------------------

    def play(self, count: int) -> int:
        """How many frames were read."""
        waiting, read = bytearray(), 0
        reads = self.chance.choice((40, 400, 4_000, 40_000))
        frames = self.frames(count)
        while not self.connection.ended:
            size = self.chance.randrange(1, reads)
            while len(waiting) < size and (made := next(frames, None)) is not None:
                waiting += made
                read += 1
            if not waiting:
                break
            self.read(bytes(waiting[:size]))
            del waiting[:size]
        self.take()
        if self.connection.ended:
            assert self.connection.receive(PREFACE, self.now) == []
            assert self.connection.take() == []
        return read

    def read(self, sent: bytes) -> None:
        self.now += 0.01
        begun = time.thread_time()
        events = self.connection.receive(sent, self.now)
        assert time.thread_time() - begun < SLOWEST_S, "a read takes too long"
        if self.connection.ended:
            assert isinstance(events[-1], ConnectionEnded)
        self.answer(events)
        self.check()
        if not self.lazy or self.chance.random() < 0.05:
            self.take()
        if self.chance.random() < 0.0002:
            self.connection.goaway()

    def take(self) -> None:
        while out := self.connection.take(self.chance.choice((1, 1_000, 10**6))):
            data = b"".join(out)
            while data:
                length = int.from_bytes(data[:3], "big")
                assert len(data) >= 9 + length, "half a frame is given"
                assert length <= max(self.connection._frame_bytes, 2**14), "a frame too large"
                data = data[9 + length :]

    def check(self) -> None:
        """Memory is bounded by the limits and what was given for answers."""
        connection = self.connection
        assert connection.open_streams <= LIMITS.max_streams
        assert connection._send_window >= 0
        assert 0 <= connection._window <= LIMITS.connection_window
        assert connection._rest_bytes <= LIMITS.max_frame_bytes + 9
        assert len(connection._known) <= LIMITS.max_header_caches
        assert len(connection._lasting) <= LIMITS.max_header_caches
        assert len(connection._past._resets) <= 256
        assert len(connection._round) <= 2 * LIMITS.max_streams + 70
        assert connection._block_bytes <= LIMITS.max_header_block_bytes + LIMITS.max_frame_bytes
        assert connection.pending_bytes <= self.given + 200_000
        queued = sum(state.queued for state in connection._streams.values())
        assert connection._queued == queued
        unread = sum(state.unread for state in connection._streams.values())
        assert connection._unread == unread <= LIMITS.connection_window


def fuzz(frames: int, seed: int, seconds: float = 10**9) -> tuple[int, int]:
    """Converse until that many frames were read or the time is up: (frames, conversations)."""
    read = conversations = 0
    ends = time.perf_counter() + seconds
    while read < frames and time.perf_counter() < ends:
        chance = random.Random(f"{seed}/{conversations}")
        read += Conversation(chance).play(chance.choice((10, 100, 1_000)))
        conversations += 1
    return read, conversations


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks http2_fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    fuzz(min(20_000, arguments.frames), arguments.seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    frames, conversations = fuzz(arguments.frames, arguments.seed)
    seconds = time.perf_counter() - begun
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{frames:,} frames in {conversations:,} connections, {seconds:.0f} s: no failure")
    print(f"memory grew by {grown:,} KiB at most")
    print(json.dumps({
        "frames": frames, "connections": conversations, "seed": arguments.seed,
        "seconds": round(seconds, 1), "memory_growth_kib": grown,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
