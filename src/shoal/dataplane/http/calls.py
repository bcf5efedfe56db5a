"""An inference over HTTP in the V2 or the V1 protocol: its bytes in and out."""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter

from shoal.codecs import v1, v2
from shoal.codecs.message import InferRequest, InferResponse
from shoal.codecs.peer import HTTP, PeerReply
from shoal.codecs.peer.frames import Data
from shoal.dataplane.http import peer_form, responses
from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.peer_form import TIMEOUT
from shoal.dataplane.inference import LONGEST_TIMEOUT_S
from shoal.domain.errors import DeadlineExceeded, InvalidRequest, ShoalError
from shoal.domain.signature import Signature


class Target:
    """What an inference's head says: which model, and how its body and its answer are packed. Equal
    heads share one."""

    __slots__ = (
        "encoded", "finished", "json_length", "kind", "name", "packed", "sized", "timed", "version",
    )

    def __init__(
        self, kind: type[HttpCall], name: str, version: int | None, headers: dict[bytes, bytes]
    ) -> None:
        self.kind = kind
        self.name = name
        self.version = version
        self.timed = TIMEOUT in headers
        self.encoded = b"content-encoding" in headers
        self.sized = responses.JSON_LENGTH in headers
        self.json_length: int | None = None  # once it was read
        self.packed: bytes | None = None  # the head for other instances, once one got it
        self.finished = not (  # nothing is left to do for an answer with status 200
            responses.ACCEPT_ENCODING in headers or responses.REQUEST_ID in headers
        )


class HttpCall:
    """What both protocols have in common."""

    __slots__ = (
        "_http", "_max_body_bytes", "_target", "name", "size_bytes", "started", "version",
    )
    protocol = revision = origin = ""

    def __init__(self, http: Request, target: Target, max_body_bytes: int) -> None:
        self.started = perf_counter()
        self.name = target.name
        self.version = target.version
        self.size_bytes = len(http.body)
        self._http = http
        self._target = target
        self._max_body_bytes = max_body_bytes

    @property
    def request_id(self) -> str:
        return responses.request_id(self._http)

    def body(self) -> bytes | memoryview:
        """Decompressed."""
        if not self._target.encoded:
            return self._http.body
        body = responses.read_body(self._http, self._max_body_bytes)
        self.size_bytes = len(body)
        return body

    def decode(self, signature: Signature) -> InferRequest:
        raise NotImplementedError

    def encode(
        self, response: InferResponse, request: InferRequest
    ) -> Response | Awaitable[Response]:
        raise NotImplementedError

    def refuse(self, error: ShoalError) -> Response:
        return responses.identified(self._http, responses.error_response(error))

    def timeout_s(self, default_s: float) -> float:
        return timeout_s(self._http, default_s) if self._target.timed else default_s

    def pack(self) -> tuple[int, bytes, Data]:
        target = self._target
        if target.packed is None:
            target.packed = peer_form.pack_head(self._http)
        return HTTP, target.packed, self._http.body

    def unpack(self, reply: PeerReply) -> tuple[Response, int]:
        return peer_form.unpack_answer(reply)

    def _finish(self, response: Response) -> Response | Awaitable[Response]:
        """What the client wants beside the answer."""
        if self._target.finished:
            return response
        return responses.compressed(self._http, responses.identified(self._http, response))


class V2Call(HttpCall):
    """`POST /v2/models/M[/versions/V]/infer`."""

    __slots__ = ()
    protocol = "v2"

    def decode(self, signature: Signature) -> InferRequest:
        target = self._target
        if target.timed:
            timeout_s(self._http, 0.0)
        if not target.sized:
            return v2.decode_request(self.body(), None)
        if target.json_length is None:
            target.json_length = responses.json_length(self._http)
        return v2.decode_request(self.body(), target.json_length)

    def encode(
        self, response: InferResponse, request: InferRequest
    ) -> Response | Awaitable[Response]:
        parts, json_length = v2.encode_response(response, request)
        headers = [responses.JSON]
        if json_length is not None:
            headers = [responses.BINARY, responses.json_length_header(json_length)]
        return self._finish(Response(200, parts, headers))


class V1Call(HttpCall):
    """`POST /v1/models/M[/versions/V]:predict`."""

    __slots__ = ()
    protocol = "v1"

    def decode(self, signature: Signature) -> InferRequest:
        if self._target.timed:
            timeout_s(self._http, 0.0)
        if self._target.sized:
            raise InvalidRequest("the V1 protocol has no binary tensors; send them to the V2 path")
        return v1.to_request(v1.decode(self.body()), signature)

    def encode(
        self, response: InferResponse, request: InferRequest
    ) -> Response | Awaitable[Response]:
        return self._finish(Response(200, [v1.encode_response(response)], [responses.JSON]))


class Question:
    """What is asked about a model, not of it: a `dataplane.peer.forwarding.Asked`."""

    def __init__(
        self, http: Request, name: str = "", version: int | None = None, revision: str = ""
    ) -> None:
        self.started = perf_counter()
        self.name = name
        self.version = version
        self.revision = revision
        self._http = http

    def pack(self) -> tuple[int, bytes, Data]:
        return HTTP, peer_form.pack_head(self._http), self._http.body

    def unpack(self, reply: PeerReply) -> tuple[Response, int]:
        return peer_form.unpack_answer(reply)


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
