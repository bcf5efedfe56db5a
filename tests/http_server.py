"""HTTP servers of the tests' own on 127.0.0.1, each on threads of its own."""

from __future__ import annotations

import re
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open, and prints nothing of requests."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the base's name
        """Nothing: tests ask what was seen."""

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer; of one to HEAD, its head. headers: `_` in their names stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_head(status, len(body), named)
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_part(self, body: bytes, **headers: str) -> None:
        """The part of `body` that is asked for; all of it where none is."""
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None:
            self.send(200, body, **headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(body)) + 1, len(body))
        if start >= len(body):
            self.send(416, b"", Content_Range=f"bytes */{len(body)}", **headers)
        else:
            shown = f"bytes {start}-{end - 1}/{len(body)}"
            self.send(206, body[start:end], Content_Range=shown, **headers)

    def send_head(self, status: int, length: int, headers: dict[str, str]) -> None:
        """length: what is told of the body's."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class HttpServer:
    """Listens at once, and answers within its context. known: attributes of the handler. tls: a
    certificate and its key, with which https is spoken."""

    def __init__(self, handler: type[Handler], tls: tuple[Path, Path] | None = None,
                 **known: object) -> None:
        self._server = _Server(("127.0.0.1", 0), type("Handler", (handler,), known))
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http{'s' if tls else ''}://{self.host}"

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave, and those that trust no certificate, are part of the tests."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
