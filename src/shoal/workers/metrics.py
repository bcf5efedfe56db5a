"""The metrics of all workers on one page, whichever of them is asked.

Must not know what is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from shoal.observability.logs import get_logger
from shoal.observability.merging import merge
from shoal.workers.plan import private_address

OWN: Final = "shoal_workers_unreachable"  # what is true of the page, not of a worker

_TIMEOUT_S: Final = 1.0  # of Prometheus' usual ten; a worker that hangs must not cost the others
_LABEL: Final = "worker"

Page: TypeAlias = tuple[bytes, str]

log = get_logger("shoal.workers")


class PageOfAll:
    """expose: this worker's own page for an Accept header. unreachable: while `expose` runs for the
    page of all, the workers that did not answer; None otherwise."""

    def __init__(
        self, expose: Callable[[str], Page], *, number: int, workers: int, run_dir: Path
    ) -> None:
        self._expose = expose
        self._number = number
        self._others = [other for other in range(1, workers + 1) if other != number]
        self._run_dir = run_dir
        self.unreachable: int | None = None

    async def expose(self, accept: str) -> Page:
        """(body, content type), each series with a label `worker`."""
        answers = await asyncio.gather(*[self._ask(other, accept) for other in self._others])
        pages = {number: page for number, page in zip(self._others, answers, strict=True) if page}
        self.unreachable = len(answers) - len(pages)
        try:
            body, content_type = self._expose(accept)
        finally:
            self.unreachable = None
        pages[self._number] = body
        labelled = {str(number): page for number, page in sorted(pages.items())}
        # On a thread, which leaves the loop its turns between the families.
        return await asyncio.to_thread(merge, _LABEL, labelled, (OWN,)), content_type

    async def _ask(self, number: int, accept: str) -> bytes | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await _get_metrics(private_address(self._run_dir, number), accept)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            log.debug("worker gives no metrics", of=number, error=repr(error))
            return None


async def _get_metrics(path: Path, accept: str) -> bytes:
    """`GET /metrics` at a Unix socket. Raises OSError (TimeoutError is one), EOFError, ValueError
    and LimitOverrunError when that fails."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(
            f"GET /metrics HTTP/1.1\r\nHost: worker\r\nAccept: {accept}\r\n"
            "Connection: close\r\n\r\n".encode("latin-1")
        )
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        if status.split()[1] != "200":
            raise ValueError(f"it answers {status!r}")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields)
        }
        return await reader.readexactly(int(headers.get("content-length", "")))
    finally:
        writer.close()
