"""What the instances of a simulated mesh share, and who watches them. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol

from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.simulation.agenda import Agenda
from shoal.simulation.loading import Loader
from shoal.simulation.network import Network
from shoal.simulation.registry import Registry
from shoal.simulation.requests import Request

if TYPE_CHECKING:
    from shoal.simulation.host import Host


class Witness(Protocol):
    """Sees everything, to check it."""

    def handled(self, host: Host, event: on.Event, commands: list[do.Command]) -> None: ...
    def load_begins(self, host: Host, command: do.LoadCopy) -> None: ...
    def runs(self, host: Host, request: Request, revision: str) -> None: ...
    def ended(self, host: Host, request: Request) -> None: ...
    def gone(self, host: Host) -> None: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """An instance's own: offset_s ahead of the others', and faster by rate."""

    offset_s: float = 0.0
    rate: float = 0.0

    def read(self, now: float) -> float:
        return self.offset_s + now * (1.0 + self.rate)


@dataclass(frozen=True, slots=True)
class Around:
    """What instances share. lag_s: of their watches of the registry. service_s: of a request, least
    and most. unload_s: of a copy whose last request is answered."""

    agenda: Agenda
    chance: Random
    registry: Registry
    network: Network
    loader: Loader
    witness: Witness
    lag_s: float = 0.05
    service_s: tuple[float, float] = (0.001, 0.02)
    unload_s: float = 0.01
    drain_s: float = 8.0
