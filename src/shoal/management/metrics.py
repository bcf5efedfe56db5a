"""Serves the metrics page. What is measured, and in which formats, is known by who measures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from shoal.management.operation import Media, operation

# The value of the request's Accept header, to the page and its full content type.
Expose: TypeAlias = Callable[[str], tuple[bytes, str] | Awaitable[tuple[bytes, str]]]

_PAGE: Final = Media(("text/plain", "application/openmetrics-text"))


class Metrics:
    def __init__(self, expose: Expose) -> None:
        self._expose = expose

    @operation("GET", "/metrics", answers={200: _PAGE})
    async def metrics(self, request: Request) -> Response:
        """All metrics, for Prometheus.

        In the Prometheus text format, or in OpenMetrics when the Accept header prefers it.
        """
        exposed = self._expose(request.headers.get("accept", ""))
        page, content_type = exposed if isinstance(exposed, tuple) else await exposed
        return Response(page, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
