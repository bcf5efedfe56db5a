"""A real HTTP server whose answers a test writes down; it keeps what it was asked."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import msgspec
from tests.http_server import Handler, HttpServer


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
    return Canned(status, msgspec.json.encode(value), headers)


class CannedServer(HttpServer):
    """Answers `METHOD /path` with what was written for it: each in turn, the last one for ever."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._script: dict[str, list[Canned]] = {}
        super().__init__(_Handler, of=self)

    def answers(self, what: str, *answers: Canned) -> None:
        self._script[what] = list(answers)

    def next_answer(self, asked: Asked) -> Canned:
        self.asked.append(asked)
        script = self._script.get(f"{asked.method} {asked.path}")
        if not script:
            return json_of({"error": f"no such path {asked.path}", "code": "PATH_NOT_FOUND"}, 404)
        return script.pop(0) if len(script) > 1 else script[0]


class _Handler(Handler):
    of: CannedServer

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.of.next_answer(Asked(self.command, parts.path, query, headers, body))
        if answer.hold is not None:
            answer.hold.wait(10)
        if answer.drop:
            self.close_connection = True
            return
        self.send(answer.status, answer.body, **answer.headers)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 -- the base class's names


def canned_server() -> CannedServer:
    """To be entered."""
    return CannedServer()
