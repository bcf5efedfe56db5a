"""Answers what goes wrong: each error as JSON with its status, and each request with its id.

Knows nothing of the operations whose errors these are; which status an error has is the table in
`shoal.codecs.errors`.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Final

import msgspec
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from shoal.codecs.errors import http_status, retry_after
from shoal.domain.errors import (
    InvalidRequest,
    MethodNotAllowed,
    PathNotFound,
    ShoalError,
    ShuttingDown,
)

REQUEST_ID: Final = "X-Request-Id"
_VISIBLE_ASCII: Final = re.compile(r"[!-~]{1,128}")
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class ErrorView(msgspec.Struct, frozen=True):
    """Why a request failed.

    error: what is wrong, why, and what to do about it, for people.
    code: the same for programs; stable.
    retryable: whether the same request may succeed later without anybody changing anything.
    """

    error: str
    code: str
    retryable: bool


def error_response(error: ShoalError) -> Response:
    """The answer to a request that failed with `error`."""
    headers = {"Cache-Control": "no-store"}
    wait_s = retry_after(error)
    if wait_s is not None:
        headers["Retry-After"] = str(wait_s)
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    return Response(
        msgspec.json.encode(ErrorView(error.message, error.code, error.retryable)),
        status_code=http_status(error),
        headers=headers,
        media_type="application/json",
    )


async def answer_error(request: Request, error: Exception) -> Response:
    """Exception handler of the application for ShoalError and the framework's HTTPException."""
    if isinstance(error, HTTPException):
        error = _translate(error, request)
    assert isinstance(error, ShoalError)
    return error_response(error)


class RequestBoundary:
    """ASGI middleware around all else: gives each request its id and lets no exception out.

    The id is the client's `X-Request-Id` when that is 1 to 128 visible ASCII characters, else a new
    one. It is in every response, and in the log context as `request_id`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID, ""))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        with bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                _log.debug("client left", method=scope["method"], path=scope["path"])
            except asyncio.CancelledError:  # the server ends while this request runs
                if not started:
                    await error_response(_ending())(scope, receive, send_with_id)
                raise
            except Exception:  # whatever it is, the client gets an answer and the log the story
                _log.exception("request failed", method=scope["method"], path=scope["path"])
                if started:
                    raise  # half an answer must not look like a whole one: the server hangs up
                response = error_response(_unexpected(request_id))
                await response(scope, receive, send_with_id)


def _translate(error: HTTPException, request: Request) -> ShoalError:
    path: str = request.scope["path"]
    if error.status_code == 404:
        return PathNotFound(f"there is nothing at {path}; GET /api/v1/openapi.json lists all paths")
    if error.status_code == 405:
        allowed = tuple(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return MethodNotAllowed(
            f"{path} does not take {request.method}; it takes {', '.join(allowed)}", allowed
        )
    return InvalidRequest(error.detail)


def _unexpected(request_id: str) -> ShoalError:
    return ShoalError(
        "the server failed unexpectedly while handling this request; its log says why, "
        f"under request_id {request_id}"
    )


def _ending() -> ShoalError:
    return ShuttingDown("this instance is shutting down; ask another one, or ask again later")


def _request_id(given: str) -> str:
    return given if _VISIBLE_ASCII.fullmatch(given) else uuid.uuid4().hex
