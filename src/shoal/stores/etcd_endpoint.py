"""One member of an etcd cluster: a connection that comes back by itself, and calls on it.

Tells what failed and whether the request may have been carried out; tries nothing twice and knows
no other member. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

# What gRPC writes to standard error by itself comes as errors to us, who tell it once. Before the
# import, which reads it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

from shoal.stores.etcd_answers import Fate, Refused, Unanswered, failure
from shoal.stores.etcd_messages import STATUS, STATUS_REQUEST, Method
from shoal.stores.etcd_options import Tls

T = TypeVar("T")

Metadata: TypeAlias = "tuple[tuple[str, str], ...]"

REACH_S: Final = 2.0
"""Within so many seconds a member answers a new connection, or counts as away."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # etcd's own limits hold
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A machine that vanished takes its connections along without a word. etcd cuts those that are
    # pinged more often than every 5 s, or without a call.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),  # a registry is never behind the proxy of the web
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the waits of an old one
)


class Endpoint:
    """address: `host:port`. tls: None, a plain connection."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address = address
        self._tls = tls
        self._channel: grpc.aio.Channel | None = None
        self._reaching: asyncio.Task[str | None] | None = None

    async def reach(self, timeout_s: float) -> None:
        """Come back once it is connected and answers. Raises Unanswered, for which nothing was
        done. However many wait, one tries."""
        if self._is_connected():
            return
        if self._reaching is None:
            self._reaching = asyncio.create_task(self._connect())
            self._reaching.add_done_callback(self._reached)
        reaching = self._reaching
        await asyncio.wait({reaching}, timeout=timeout_s)
        if not reaching.done():
            raise Unanswered(Fate.UNDONE, f"it does not answer within {timeout_s:.1f} s")
        reason = "the connection was closed" if reaching.cancelled() else reaching.result()
        if reason is not None:
            raise Unanswered(Fate.UNDONE, reason)

    async def ask(self, method: Method[T], request: bytes, timeout_s: float, metadata: Metadata
                  ) -> T:
        """The answer. Call it after `reach`, without waiting in between. Raises Refused and
        Unanswered."""
        if method.streams:
            return await self._ask_by_stream(method, request, timeout_s, metadata)
        call = self._connection().unary_unary(method.path, response_deserializer=method.answer)
        try:
            answer: T = await call(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _failure(error.code(), error.details()) from None
        except asyncio.CancelledError:
            raise_if_cancelled()
            raise Unanswered(Fate.UNKNOWN, "the connection was closed") from None
        return answer

    def open(self, method: Method[T], metadata: Metadata) -> Stream[T]:
        """A stream, on its way. Call it after `reach`, without waiting in between."""
        call = self._connection().stream_stream(method.path, response_deserializer=method.answer)
        return Stream(self, call(metadata=metadata))

    async def close(self) -> None:
        """Cut what is going on."""
        if self._reaching is not None:
            self._reaching.cancel()
            await asyncio.wait({self._reaching})
        await self._drop()

    async def _ask_by_stream(self, method: Method[T], request: bytes, timeout_s: float,
                             metadata: Metadata) -> T:
        stream = self.open(method, metadata)
        try:
            async with asyncio.timeout(timeout_s):
                await stream.write(request)
                return await stream.read()
        except TimeoutError:
            raise Unanswered(Fate.UNKNOWN, "it does not answer in time") from None
        finally:
            stream.cancel()

    def _connection(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise Unanswered(Fate.UNDONE, "the connection was closed")
        return self._channel

    def _is_connected(self) -> bool:
        return (
            self._channel is not None
            and self._channel.get_state() is grpc.ChannelConnectivity.READY
        )

    async def _connect(self) -> str | None:
        """Why it cannot be reached; None: it answers."""
        try:
            if self._channel is None:
                self._channel = await self._open_channel()
            await self.ask(STATUS, STATUS_REQUEST, REACH_S, ())
        except OSError as error:
            return f"{error.filename}: {error.strerror or error}"
        except Refused:
            return None  # an answer, and proper requests will get theirs
        except Unanswered as error:
            if error.fate is not Fate.UNKNOWN:
                return None
            await self._drop()  # the next try starts afresh: no wait, files read anew
            return error.reason
        return None

    def _reached(self, _: asyncio.Task[str | None]) -> None:
        self._reaching = None

    async def _open_channel(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        credentials = await asyncio.to_thread(_credentials, self._tls)
        return grpc.aio.secure_channel(self.address, credentials, options=_OPTIONS)

    async def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


class Stream(Generic[T]):
    """Requests and answers that come and go on their own. Methods raise Refused and Unanswered when
    it has ended."""

    def __init__(self, endpoint: Endpoint, call: grpc.aio.StreamStreamCall) -> None:
        self.endpoint = endpoint
        self._call = call

    async def write(self, request: bytes) -> None:
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise _failure(error.code(), error.details()) from None
        except asyncio.InvalidStateError:  # it ended before
            raise await self._end() from None
        except asyncio.CancelledError:
            raise_if_cancelled()
            raise Unanswered(Fate.UNKNOWN, "the connection was closed") from None

    async def read(self) -> T:
        """Cancelled, it ends the whole stream."""
        try:
            answer: T = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _failure(error.code(), error.details()) from None
        except asyncio.CancelledError:
            raise_if_cancelled()
            raise Unanswered(Fate.UNKNOWN, "the connection was closed") from None
        if answer is grpc.aio.EOF:
            raise await self._end()
        return answer

    def cancel(self) -> None:
        self._call.cancel()

    async def _end(self) -> Refused | Unanswered:
        return _failure(await self._call.code(), await self._call.details())


def raise_if_cancelled() -> None:
    """Within `except CancelledError`: go on with it if it is meant for this task. A call that is
    cut with its connection looks the same to those who wait for it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise


def _failure(code: grpc.StatusCode, details: str | None) -> Refused | Unanswered:
    return failure(code.name, details or "")


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    ca = tls.ca
    if ca is None:
        system = ssl.get_default_verify_paths().cafile
        ca = Path(system) if system else None
    key, certificate = (
        (tls.pair[1].read_bytes(), tls.pair[0].read_bytes()) if tls.pair else (None, None)
    )
    return grpc.ssl_channel_credentials(
        ca.read_bytes() if ca else None, private_key=key, certificate_chain=certificate
    )
