"""Who may open a registry file now, where several processes of one machine share it.

Any number may open it together; who repairs it is alone meanwhile. The kernel keeps the lock, on a
file beside, so that it ends with its process. Must not know what the file holds.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from shoal.domain.errors import StoreUnavailable

_RETRY_S: Final = 0.02
PATIENCE_S: Final = 60.0
"""How long to wait for another process's repair: a million records are read and written again in
20 s."""


@asynccontextmanager
async def turn(
    path: Path, *, alone: bool = False, patience_s: float = PATIENCE_S
) -> AsyncIterator[None]:
    """While it lasts, nobody repairs the file at `path` (alone: nobody opens it either).

    The lock's file stays: removing it would let two processes lock two files of one name. Where it
    cannot be made, nothing is locked, and opening the registry tells why. Raises StoreUnavailable
    after `patience_s`.
    """
    beside = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield
        return
    try:
        await _lock(file, path, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, patience_s)
        yield
    finally:
        os.close(file)  # which unlocks it


async def _lock(file: int, path: Path, kind: int, patience_s: float) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if loop.time() >= give_up_at:
                raise StoreUnavailable(
                    f"registry {path} has been opened or repaired by another process for "
                    f"{patience_s:g} s: end that one (`fuser {path}.lock` names it), or try again "
                    "later"
                ) from None
        except OSError:
            return  # a file system without locks
        await asyncio.sleep(_RETRY_S)
