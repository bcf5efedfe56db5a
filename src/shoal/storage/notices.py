"""Listens to what the file system says of changes under a path.

Notices are hints: some mounts give none, and some are lost; whoever needs certainty looks again
from time to time. Reads no file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import watchfiles

_GATHER_MS: Final = 200  # notices of one copy come in floods; together they cost one look
_STEP_MS: Final = 50
_BEGIN_MS: Final = 500  # also how long a quiet listener's thread sleeps at a time


class Notices:
    """One listener at a time.

    on_notice: called with the first part, below the path, of each changed file's name; with None
        when listening has begun, for what changed before is not told; with the empty set when
        listening ended by itself.
    failure: why listening ended, until it begins again.
    """

    def __init__(self, on_notice: Callable[[set[str] | None], None]) -> None:
        self.failure: str | None = None
        self._on_notice = on_notice
        self._task: asyncio.Task[None] | None = None
        self._heard: object = None

    async def listen(self, path: Path, identity: object) -> None:
        """Listen to the folder `path`, or to the folder of the file `path`, unless that is being
        done already for the same `identity`: a folder that was replaced needs a new listener."""
        if self._task is not None and (self._task.done() or identity != self._heard):
            await self.close()
        if self._task is None:
            self._heard = identity
            self._task = asyncio.create_task(self._run(path), name=f"notices of {path}")

    async def close(self) -> None:
        """Stop listening. Returns when the listener's thread has ended."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self, path: Path) -> None:
        try:
            await self._hear(path)
            self.failure = "it ended"
        except (OSError, RuntimeError) as error:
            self.failure = str(error)
        self._on_notice(set())

    async def _hear(self, path: Path) -> None:
        begun = False
        # A file that is replaced takes its own listener with it: listen to its folder.
        below = await asyncio.to_thread(path.is_dir)
        path = path if below else path.parent
        async for changes in watchfiles.awatch(
            path, watch_filter=None, debounce=_GATHER_MS, step=_STEP_MS, rust_timeout=_BEGIN_MS,
            yield_on_timeout=True, recursive=below, ignore_permission_denied=True,
        ):
            if not begun:
                begun = True
                self.failure = None
                self._on_notice(None)
            names = {_first_part(changed, path) for _, changed in changes}
            if names:
                self._on_notice(names)


def _first_part(changed: str, path: Path) -> str:
    inside = changed.removeprefix(str(path)).lstrip("/")
    return inside.split("/", 1)[0]
