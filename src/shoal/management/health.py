"""Answers whether the process runs and whether it should get requests, for orchestrators.

Knows nothing of why an instance is not ready; the instance says so itself.
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from shoal.management.operation import json_response, operation
from shoal.node.control import Control


class Liveness(msgspec.Struct, frozen=True):
    """The process runs and answers."""

    live: bool


class Readiness(msgspec.Struct, frozen=True):
    """Whether this instance should get requests now.

    problems: why not; empty when it is ready.
    """

    ready: bool
    problems: list[str]


class Health:
    """The probes, as Kubernetes asks for them."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @operation("GET", "/health/live", answers={200: Liveness})
    async def live(self) -> Response:
        """Is the process alive?

        When this fails, restart it.
        """
        return json_response(Liveness(live=True))

    @operation("GET", "/health/ready", answers={200: Readiness, 503: Readiness})
    async def ready(self) -> Response:
        """Should this instance get requests?

        503 while it starts and while it drains, with the reasons.
        """
        problems = self._control.problems_of_readiness()
        return json_response(Readiness(not problems, problems), 503 if problems else 200)
