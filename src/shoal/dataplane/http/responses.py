"""Makes the responses of the public endpoints: JSON, errors, the headers that all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import lru_cache
from typing import Final

import orjson

from shoal.codecs import compression
from shoal.codecs.errors import error_body, http_status, retry_after
from shoal.dataplane import request_ids
from shoal.dataplane.http.message import Request, Response
from shoal.domain.errors import InvalidRequest, MethodNotAllowed, ShoalError

JSON: Final = (b"content-type", b"application/json")
BINARY: Final = (b"content-type", b"application/octet-stream")
REQUEST_ID: Final = request_ids.HEADER
ACCEPT_ENCODING: Final = b"accept-encoding"
JSON_LENGTH: Final = b"inference-header-content-length"

# From here on a body is compressed on a thread: tensors take 20 to 150 ms a MB, which all other
# requests would wait for, and many clients ask for compression without knowing it.
THREAD_BYTES: Final = 4 * 1024


def json_response(value: object, status: int = 200) -> Response:
    return Response(status, [orjson.dumps(value)], [JSON])


def error_response(error: ShoalError) -> Response:
    """`{"error": message}`, with the code of the error's class in `shoal-error-code`."""
    headers = [JSON, (b"shoal-error-code", error.code.encode())]
    wait_s = retry_after(error)
    if wait_s is not None:
        headers.append((b"retry-after", str(wait_s).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    return Response(http_status(error), [error_body(error)], headers)


def read_body(request: Request, max_bytes: int) -> bytes | memoryview:
    """The body, decompressed. Raises InvalidRequest, BodyTooLarge."""
    encoding = request.headers.get(b"content-encoding")
    if encoding is None:
        return request.body
    return compression.decompress(request.body, encoding, max_bytes)


def identified(request: Request, response: Response) -> Response:
    """`response` with the request's id: the client's, and with every error."""
    if REQUEST_ID in request.headers or response.status >= 400:
        response.headers.append((REQUEST_ID, request_id(request).encode("latin-1")))
    return response


def compressed(request: Request, response: Response) -> Response | Awaitable[Response]:
    """`response` compressed, if its client takes that and it is worth it; a large one on a thread.

    Only for answers to inferences: tritonclient's asyncio client offers compression with every
    request, but understands it in those alone.
    """
    accepted = request.headers.get(ACCEPT_ENCODING)
    if accepted is None or response.status != 200:
        return response
    size = sum(map(len, response.body))
    if size >= compression.THRESHOLD_BYTES:
        response.headers.append((b"vary", ACCEPT_ENCODING))
    encoding = compression.negotiate(accepted, size)
    if encoding is None:
        return response
    response.headers.append((b"content-encoding", encoding.encode()))
    if size < THREAD_BYTES:
        return _compressed(response, encoding)
    return asyncio.to_thread(_compressed, response, encoding)


def _compressed(response: Response, encoding: compression.Encoding) -> Response:
    response.body = list(compression.compress(response.body, encoding))
    return response


def request_id(request: Request) -> str:
    """The client's `x-request-id` when it is fit to be logged and returned, else a new one, which
    the request carries from now on."""
    given = request_ids.usable(request.headers.get(REQUEST_ID))
    if given is not None:
        return given
    made = request_ids.make()
    request.headers = {**request.headers, REQUEST_ID: made.encode()}
    return made


def json_length(request: Request) -> int | None:
    """The value of Inference-Header-Content-Length. Raises InvalidRequest."""
    given = request.headers.get(JSON_LENGTH)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 15:
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {given.decode('latin-1')!r}; it must be the "
            "number of bytes of JSON at the body's beginning"
        )
    return int(given)


@lru_cache(maxsize=1024)
def json_length_header(length: int) -> tuple[bytes, bytes]:
    return JSON_LENGTH, str(length).encode()
