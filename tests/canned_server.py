"""A real HTTP server whose answers a test writes down; it keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import msgspec


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return msgspec.json.decode(self.body)


@dataclass
class Canned:
    """drop: hang up without an answer. hold: wait for this before answering."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    hold: threading.Event | None = None


def json_of(value: object, status: int = 200, **headers: str) -> Canned:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Canned(status, msgspec.json.encode(value), named)


class CannedServer:
    """Answers `METHOD /path` with what was written for it: each in turn, the last one for ever."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self._script: dict[str, list[Canned]] = {}

    def answers(self, what: str, *answers: Canned) -> None:
        self._script[what] = list(answers)

    def next_answer(self, asked: Asked) -> Canned:
        self.asked.append(asked)
        script = self._script.get(f"{asked.method} {asked.path}")
        if not script:
            return json_of({"error": f"no such path {asked.path}", "code": "PATH_NOT_FOUND"}, 404)
        return script.pop(0) if len(script) > 1 else script[0]


@contextmanager
def canned_server() -> Iterator[CannedServer]:
    canned: CannedServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = canned.next_answer(Asked(self.command, parts.path, query, headers, body))
            if answer.hold is not None:
                answer.hold.wait(10)
            if answer.drop:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 -- the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as above
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    canned = CannedServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield canned
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
