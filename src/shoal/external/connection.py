"""One gRPC connection to a model server: bytes there and back. The only module that imports grpcio.

It comes back by itself when it was lost. For any thread. Must not know messages.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final, Protocol

# What gRPC writes to standard error by itself comes as errors to us, who tell it once. Before the
# import, which reads it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from shoal.external.interface import CallFailed

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # the server's own limits hold
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),  # a model server is never behind the proxy of the web
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the waits of an old one
)


class _Call(Protocol):
    def result(self) -> bytes: ...
    def cancel(self) -> bool: ...


class _Method(Protocol):
    def __call__(self, request: bytes, *, timeout: float | None) -> bytes: ...
    def future(self, request: bytes, *, timeout: float | None) -> _Call: ...


class Connection:
    """address: `host:port` or `unix:<path>`."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._methods: dict[str, _Method] = {}
        self._turn = threading.Lock()
        self._revocable: set[_Call] = set()
        self._is_revoked = False

    def ask(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """timeout_s: 0: for ever. Raises CallFailed."""
        return _answered(lambda: self._method(path)(request, timeout=timeout_s or None))

    def ask_revocably(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """As `ask`, until `revoke`."""
        def answer() -> bytes:
            with self._turn:
                if self._is_revoked:
                    raise CallFailed("CANCELLED", "the server is not used any more")
                call = self._method(path).future(request, timeout=timeout_s or None)
                self._revocable.add(call)
            try:
                return call.result()
            except grpc.FutureCancelledError:
                raise CallFailed("CANCELLED", "") from None
            finally:
                self._revocable.discard(call)

        return _answered(answer)

    def revoke(self) -> None:
        """Cancel all calls that may be, now and from now on."""
        with self._turn:
            self._is_revoked = True
            calls = list(self._revocable)
        for call in calls:
            call.cancel()

    def close(self) -> None:
        """All calls end as CANCELLED."""
        self._channel.close()

    def _method(self, path: str) -> _Method:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(path)
        return method


def _answered(ask: Callable[[], bytes]) -> bytes:
    try:
        return ask()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        details = " ".join(str(error.details() or "").split())[:1000]
        raise CallFailed(code.name, details) from None
    except ValueError as error:  # "Cannot invoke RPC on closed channel!"
        raise CallFailed("CANCELLED", str(error)) from None
