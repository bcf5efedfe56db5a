"""What the blocking and the asyncio client share about httpx2: timeouts, answers, failures.

The only other modules that know httpx2 are `sync` and `aio`; nothing here sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx2

from shoal import __version__
from shoal.client.endpoints import Side
from shoal.client.errors import Answer, ConnectionFailed
from shoal.client.retry import Send
from shoal.domain.errors import DeadlineExceeded

# The server's word for a request's deadline, in milliseconds. It is told a little less than the
# time there is, so that its reason for giving up arrives before this side gives up without one.
TIMEOUT_HEADER: Final = "shoal-timeout-ms"
_SERVER_SHARE: Final = 0.98


def default_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Tensors rarely shrink and servers are mostly near: nothing is compressed unless asked for."""
    return {
        "user-agent": f"shoal/{__version__}",
        "accept-encoding": "identity",
        **(headers or {}),
    }


def timeout_of(send: Send) -> httpx2.Timeout:
    return httpx2.Timeout(send.timeout_s, connect=send.connect_s)


def request_of(
    http: httpx2.Client | httpx2.AsyncClient, headers: Mapping[str, str], send: Send
) -> httpx2.Request:
    """headers: the client's; those of the exchange win over them."""
    exchange = send.exchange
    return http.build_request(
        exchange.method,
        send.url,
        content=exchange.body if exchange.body or exchange.method != "GET" else None,
        headers={**headers, **_deadline(send), **exchange.headers},
        timeout=timeout_of(send),
    )


def _deadline(send: Send) -> dict[str, str]:
    if send.exchange.side is not Side.INFERENCE:
        return {}
    return {TIMEOUT_HEADER: str(max(1, int(send.timeout_s * 1000 * _SERVER_SHARE)))}


def answer_of(response: httpx2.Response, body: bytes, send: Send) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, body, headers, send.url)


def failure_of(error: httpx2.RequestError, send: Send) -> ConnectionFailed | DeadlineExceeded:
    """What an exchange without an answer is reported as."""
    if isinstance(error, httpx2.ConnectTimeout) and send.connect_s < send.timeout_s:
        cause = f"did not accept a connection within {send.connect_s:.3g} s"
        return ConnectionFailed(
            f"{send.base} {cause}; check the address and the network", cause=cause, sent=False
        )
    if isinstance(error, httpx2.TimeoutException):
        return overdue(send)
    cause = str(error) or type(error).__name__
    if isinstance(error, httpx2.ConnectError):
        return ConnectionFailed(
            f"cannot connect to {send.base}: {cause}; check the address, and that the server runs",
            cause=f"cannot connect: {cause}",
            sent=False,
        )
    cause = f"the connection was lost: {cause}"
    may = "" if send.exchange.repeatable else "; it may have taken effect all the same"
    return ConnectionFailed(f"{send.exchange.method} {send.url}: {cause}{may}", cause=cause)


def overdue(send: Send) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{send.exchange.method} {send.url}: no answer within {send.timeout_s:.3g} s; "
        "allow more with timeout_s, or look why with 'shoal status'"
    )
