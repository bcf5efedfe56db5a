"""What the HTTP connection costs beside the least code that parses a request and answers it.

    python -m benchmarks http [--rounds 15] [--seconds 0.5] [--connections 32]

The last line is JSON: the bare server's processor time a request over that of the whole connection
(1.0: as lean as the bare one), when clients repeat their heads, and when every head is another.
"""

from __future__ import annotations

import asyncio
import json
from typing import cast

import httptools
import orjson
import uvloop

from benchmarks.closed_loop import Target, arguments, measure
from benchmarks.machine import pin_client
from benchmarks.processes import announce, servers
from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.reader import KnownHeads
from shoal.dataplane.http.server import Server
from shoal.dataplane.listening import Listen
from shoal.settings import HttpSettings

REQUEST_BODY = orjson.dumps(
    {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}
)
REQUEST = (
    b"POST /v2/models/flowers/infer HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
    b"User-Agent: benchmark\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(REQUEST_BODY), REQUEST_BODY)
)
ANSWER = orjson.dumps(
    {
        "model_name": "flowers",
        "outputs": [
            {"name": "y", "shape": [1, 3], "datatype": "FP32", "data": [0.9, 0.08, 0.02]}
        ],
    }
)
HEADERS = [(b"content-type", b"application/json")]


class Bare(asyncio.Protocol):
    """Parses, collects the body, answers. No limit, no order, no error, no header."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.url = self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(ANSWER), ANSWER)
        )


def answer(request: Request) -> Response:
    return Response(200, [ANSWER], HEADERS)


def report(error: BaseException, request: Request) -> None:
    raise error


async def serve(kind: str) -> None:
    if kind == "bare":
        server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0)
        announce(server.sockets[0].getsockname()[1])
    else:
        shoal = Server(answer, HttpSettings(), listen=Listen(), on_error=report)
        await shoal.start()
        announce(shoal.address[1])
    await asyncio.Event().wait()


def main() -> None:
    options = arguments(__doc__).parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return
    # More than are remembered, in turn: every one is parsed.
    varied = [REQUEST.replace(b"flowers", b"flower-%d" % i) for i in range(2 * KnownHeads.MOST)]
    with servers("benchmarks.http", ["bare", "connection"]) as at:
        pin_client()

        def is_right(received: bytes) -> bool:
            return received.endswith(ANSWER)

        ratios = measure({
            "bare": Target(*at["bare"], [REQUEST], is_right),
            "connection, heads known": Target(*at["connection"], [REQUEST], is_right),
            "connection, heads new": Target(*at["connection"], varied, is_right),
        }, options)
    print(json.dumps({
        "http_connection_vs_bare": ratios["connection, heads known"],
        "http_connection_new_heads_vs_bare": ratios["connection, heads new"],
    }))


if __name__ == "__main__":
    main()
