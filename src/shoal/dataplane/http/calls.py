"""An inference over HTTP in the V2 or the V1 protocol: its bytes in and out."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from shoal.codecs import v1, v2
from shoal.codecs.message import InferRequest, InferResponse
from shoal.dataplane.http import responses
from shoal.dataplane.http.message import Request, Response
from shoal.domain.errors import InvalidRequest, ShoalError
from shoal.domain.signature import Signature

TIMEOUT: Final = b"shoal-timeout-ms"
"""The request header that says how long the whole may take, in milliseconds."""

# Headers that ask for work on the response; most requests carry neither.
_FINISHED_BY: Final = (b"accept-encoding", responses.REQUEST_ID)


class HttpCall:
    """What both protocols have in common."""

    __slots__ = ("_http", "_max_body_bytes", "name", "request_id", "size_bytes", "started",
                 "version")
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
        self.request_id: str | None = None

    def body(self) -> bytes:
        return responses.read_body(self._http, self._max_body_bytes)

    def refuse(self, error: ShoalError) -> Response:
        return responses.finish(self._http, responses.error_response(error))

    def done(self, response: Response) -> Response:
        headers = self._http.headers
        if _FINISHED_BY[0] in headers or _FINISHED_BY[1] in headers:
            return responses.finish(self._http, response)
        return response

    def timeout_s(self, default_s: float) -> float:
        """The client's wish when it is shorter. What is no number is ignored: a deadline that
        cannot be read must not fail a request that could be answered."""
        given = self._http.headers.get(TIMEOUT, b"")
        return min(int(given) / 1e3, default_s) if given.isdigit() else default_s


class V2Call(HttpCall):
    """`POST /v2/models/M[/versions/V]/infer`."""

    __slots__ = ()
    protocol = "v2"

    def decode(self, signature: Signature) -> InferRequest:
        http = self._http
        if b"content-encoding" in http.headers:
            return v2.decode_request(self.body(), responses.json_length(http))
        if b"inference-header-content-length" in http.headers:
            return v2.decode_request(http.body, responses.json_length(http))
        return v2.decode_request(http.body, None)

    def encode(self, response: InferResponse, request: InferRequest) -> Response:
        parts, json_length = v2.encode_response(response, request)
        if json_length is None:
            return self.done(Response(200, parts, [responses.JSON]))
        length = (b"inference-header-content-length", str(json_length).encode())
        return self.done(Response(200, parts, [responses.BINARY, length]))


class V1Call(HttpCall):
    """`POST /v1/models/M[/versions/V]:predict`."""

    __slots__ = ()
    protocol = "v1"

    def decode(self, signature: Signature) -> InferRequest:
        if b"inference-header-content-length" in self._http.headers:
            raise InvalidRequest("the V1 protocol has no binary tensors; send them to the V2 path")
        return v1.to_request(v1.decode(self.body()), signature)

    def encode(self, response: InferResponse, request: InferRequest) -> Response:
        return self.done(Response(200, [v1.encode_response(response)], [responses.JSON]))
