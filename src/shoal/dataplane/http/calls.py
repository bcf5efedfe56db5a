"""An inference over HTTP in the V2 or the V1 protocol: its bytes in and out."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from shoal.codecs import v1, v2
from shoal.codecs.message import InferRequest, InferResponse
from shoal.dataplane.http import responses
from shoal.dataplane.http.message import Request, Response
from shoal.domain.errors import DeadlineExceeded, InvalidRequest, ShoalError
from shoal.domain.signature import Signature

TIMEOUT: Final = b"shoal-timeout-ms"
"""The request header that says how long the whole may take, in milliseconds."""

LONGEST_TIMEOUT_S: Final = 86_400.0  # a day; beyond, timers overflow


class HttpCall:
    """What both protocols have in common. Its responses have no request id yet."""

    __slots__ = ("_http", "_max_body_bytes", "name", "size_bytes", "started", "version")
    protocol = ""

    def __init__(
        self, http: Request, name: str, version: int | None, max_body_bytes: int
    ) -> None:
        self.started = perf_counter()
        self.name = name
        self.version = version
        self.size_bytes = len(http.body)
        self._http = http
        self._max_body_bytes = max_body_bytes

    @property
    def request_id(self) -> str:
        return responses.request_id(self._http)

    def body(self) -> bytes:
        """Decompressed."""
        body = responses.read_body(self._http, self._max_body_bytes)
        self.size_bytes = len(body)
        return body

    def refuse(self, error: ShoalError) -> Response:
        return responses.error_response(error)

    def timeout_s(self, default_s: float) -> float:
        return timeout_s(self._http, default_s)


class V2Call(HttpCall):
    """`POST /v2/models/M[/versions/V]/infer`."""

    __slots__ = ()
    protocol = "v2"

    def decode(self, signature: Signature) -> InferRequest:
        http = self._http
        headers = http.headers
        if TIMEOUT in headers:
            timeout_s(http, 0.0)
        body = self.body() if b"content-encoding" in headers else http.body
        if b"inference-header-content-length" in headers:
            return v2.decode_request(body, responses.json_length(http))
        return v2.decode_request(body, None)

    def encode(self, response: InferResponse, request: InferRequest) -> Response:
        parts, json_length = v2.encode_response(response, request)
        if json_length is None:
            return Response(200, parts, [responses.JSON])
        length = (b"inference-header-content-length", str(json_length).encode())
        return Response(200, parts, [responses.BINARY, length])


class V1Call(HttpCall):
    """`POST /v1/models/M[/versions/V]:predict`."""

    __slots__ = ()
    protocol = "v1"

    def decode(self, signature: Signature) -> InferRequest:
        headers = self._http.headers
        if TIMEOUT in headers:
            timeout_s(self._http, 0.0)
        if b"inference-header-content-length" in headers:
            raise InvalidRequest("the V1 protocol has no binary tensors; send them to the V2 path")
        return v1.to_request(v1.decode(self.body()), signature)

    def encode(self, response: InferResponse, request: InferRequest) -> Response:
        return Response(200, [v1.encode_response(response)], [responses.JSON])


def timeout_s(http: Request, default_s: float) -> float:
    """Seconds that `http` may take in all: what its client says, else `default_s`.

    Raises InvalidRequest for what is no whole number of milliseconds, DeadlineExceeded for 0,
    which is what is left when a deadline has passed on its way here.
    """
    given = http.headers.get(TIMEOUT)
    if given is None:
        return default_s
    if not given.isdigit():
        raise InvalidRequest(
            f"the header {TIMEOUT.decode()} is {given[:40].decode('latin-1')!r}; it must be a "
            "whole number of milliseconds"
        )
    if len(given) > 18:
        return LONGEST_TIMEOUT_S
    milliseconds = int(given)
    if milliseconds == 0:
        raise DeadlineExceeded(
            f"the header {TIMEOUT.decode()} is 0: no time is left; allow the request more"
        )
    return min(milliseconds / 1e3, LONGEST_TIMEOUT_S)
