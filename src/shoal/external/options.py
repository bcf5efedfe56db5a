"""What all model servers of an instance have in common. Imports nothing that servers need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ExternalOptions:
    """folder: says where to put what ends with this process, models' folders and claims; may raise
    OSError. instance: in words for people who find a server claimed. load_timeout_s: of servers
    that do not say. call_timeout_s: 0: no bound. niceness: how much less of the processors than
    this process has. hang_s: a server that answers nothing for so long is started again. watch_s:
    between two looks at it."""

    folder: Callable[[], Path]
    instance: str
    load_timeout_s: float = 180.0
    call_timeout_s: float = 120.0
    niceness: int = 0
    hang_s: float = 30.0
    watch_s: float = 3.0
