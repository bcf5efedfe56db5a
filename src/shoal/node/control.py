"""What may be asked of a running instance: the one interface of management, SDK and commands.

`node.instance` implements it; the management API translates it to HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.domain.model import ModelSpec
from shoal.domain.views import (
    EventPage,
    InstanceView,
    ModelPage,
    ModelView,
    Outcome,
    Registered,
    SettingView,
    State,
    Status,
    Story,
)


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """after: the name the page begins behind. contains: part of the name. label: `key=value` or
    `key`."""

    after: str | None = None
    limit: int = 100
    state: State | None = None
    contains: str | None = None
    format: str | None = None
    label: str | None = None


class Control(Protocol):
    """Errors are those of `domain.errors`; what is unknown, ModelNotFound or VersionNotFound."""

    async def list_models(self, wanted: ModelFilter) -> ModelPage:
        """In turns with other requests, however many models there are."""

    def model(self, name: str) -> ModelView: ...

    def explain(self, name: str) -> Story: ...

    async def register(
        self, spec: ModelSpec, *, create: bool = False, read: bool = True
    ) -> ModelView:
        """Declare or replace. `create`: Conflict when the name is taken. `read`: look at the files
        now; otherwise the specification must say format and digest, and the load checks them.
        Raises InvalidSpecification, ArtifactError; Conflict too when a watched folder declares
        it."""

    async def register_all(
        self, specs: Sequence[ModelSpec], *, read: bool = True
    ) -> list[Registered]:
        """Each as if alone, and told of alone; what is registered just so already is unchanged."""

    async def unregister(self, name: str) -> None: ...

    async def unregister_all(self, names: Sequence[str]) -> list[Registered]:
        """Each as if alone; what is not registered is unchanged."""

    async def load(self, name: str, version: int | None = None, *, wait: bool = True) -> Outcome:
        """Take back into service and load now. `wait`: until ready; raises LoadFailed, NoRoom."""

    async def unload(self, name: str, version: int | None = None, *, wait: bool = True) -> Outcome:
        """Out of service and out of memory, until loaded by hand or declared anew."""

    def events(self, after: int = 0, limit: int = 100, model: str | None = None) -> EventPage: ...

    def instances(self) -> list[InstanceView]: ...

    async def status(self) -> Status: ...

    def settings_in_force(self) -> list[SettingView]: ...

    def problems_of_readiness(self) -> list[str]:
        """Why this instance should get no requests now; empty: ready."""
