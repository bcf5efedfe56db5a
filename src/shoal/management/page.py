"""Serves the one page for people who open the management port in a browser."""

from __future__ import annotations

from typing import Final

from jinja2 import Environment, PackageLoader
from starlette.responses import Response

from shoal.management.operation import Media, operation
from shoal.node.control import Control

_STEPS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
# The page loads nothing and runs nothing, so nothing that slips into it can either.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


class Page:
    def __init__(self, control: Control) -> None:
        self._control = control
        environment = Environment(
            loader=PackageLoader("shoal.management"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["size"] = readable_size
        self._template = environment.get_template("index.html")

    @operation("GET", "/", answers={200: Media(("text/html",))})
    async def index(self) -> Response:
        """What runs here, on one page, with the way to all else."""
        return Response(
            self._template.render(status=await self._control.status()),
            media_type="text/html",
            headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"},
        )


def readable_size(size_bytes: int) -> str:
    """`1536` as `1.5 KiB`."""
    size, step = float(size_bytes), 0
    while size >= 1024 and step < len(_STEPS) - 1:
        size, step = size / 1024, step + 1
    return f"{size:.0f} {_STEPS[step]}" if step == 0 else f"{size:.1f} {_STEPS[step]}"
