"""The management API over a fake instance and without a socket, and what its refusals say."""

from __future__ import annotations

import httpx2

MODELS = "/api/v1/models"
JSON = {"Content-Type": "application/json"}


def expose(accept: str) -> tuple[bytes, str]:
    if "openmetrics" in accept:
        return b"# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return b"shoal_models 2\n", "text/plain; version=0.0.4; charset=utf-8"


def refused(response: httpx2.Response, status: int, code: str) -> str:
    """The message of a refusal, after its form was checked."""
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert set(body) == {"error", "code", "retryable"}
    assert response.headers["content-type"] == "application/json"
    message: str = body["error"]
    return message
