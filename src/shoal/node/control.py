"""What may be asked of running instances: the one interface of management, SDK and commands.

`node.operations` implements it; the management API translates it to HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.domain.model import ModelSpec
from shoal.domain.serving_runtime import ServingRuntime
from shoal.domain.views import (
    CredentialsDeleted,
    CredentialsList,
    CredentialsView,
    Drained,
    EventPage,
    InstanceView,
    ModelPage,
    ModelView,
    Outcome,
    Registered,
    RuntimeDeleted,
    RuntimeList,
    RuntimeView,
    SettingView,
    State,
    Status,
    Story,
)
from shoal.node.questions import Counted, Leave


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
    """Of all instances together, whichever is asked. An instance that does not answer in time is
    told of as a problem. Errors are those of `domain.errors`; what is unknown, ModelNotFound or
    VersionNotFound."""

    async def list_models(self, wanted: ModelFilter) -> ModelPage:
        """In turns with other requests, however many models there are."""

    async def models(self, names: Sequence[str]) -> list[ModelView]:
        """Of those of the names that are registered."""

    async def loaded_models(self) -> list[str]:
        """Names of models that are ready on some instance, in order."""

    async def model(self, name: str) -> ModelView: ...

    async def explain(self, name: str) -> Story: ...

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

    async def events(
        self, after: int = 0, limit: int = 100, model: str | None = None,
        instance: str | None = None,
    ) -> EventPage:
        """In order of time; of one instance, if it is named. Raises NotFound, Unreachable."""

    async def instances(self) -> list[InstanceView]:
        """By id, also those that do not answer."""

    async def status(self) -> Status: ...

    async def drain(self, instance: str, wish: Leave) -> Drained:
        """Have an instance hand over what it holds, or come back. Raises NotFound, Conflict when
        nobody could take over, Unreachable."""

    async def statistics(self, model: str | None) -> list[Counted]:
        """What the other instances counted of a model, or of all; those that do not answer in time
        are left out."""

    async def list_credentials(self) -> CredentialsList:
        """Those of this instance's files and those in the registry."""

    async def credentials(self, name: str) -> CredentialsView:
        """Those that are used under the name. Raises NotFound."""

    async def set_credentials(self, name: str, entry: Mapping[str, object]) -> CredentialsView:
        """Keep them in the registry, for all instances, or replace what is there. entry: as in a
        `storage-config`. Raises InvalidSpecification; Conflict when a file of this instance has the
        name. No error shows a value."""

    async def delete_credentials(self, name: str) -> CredentialsDeleted:
        """From the registry, whoever uses them. Raises NotFound, Conflict for those of a file."""

    async def list_runtimes(self) -> RuntimeList:
        """The instance's own, which is called `shoal`, and those that are declared."""

    async def runtime(self, name: str) -> RuntimeView:
        """Raises NotFound."""

    async def declare_runtime(self, serving: ServingRuntime) -> RuntimeView:
        """Keep it in the registry, for all instances, or replace what has its name. Raises
        InvalidSpecification."""

    async def enable_runtime(self, name: str, *, enabled: bool) -> RuntimeView:
        """Models may be loaded into it, or none are any more. Raises NotFound, Conflict for the
        instance's own."""

    async def delete_runtime(self, name: str, *, force: bool = False) -> RuntimeDeleted:
        """Raises NotFound; Conflict for the instance's own and, unless `force`, while models use
        it."""

    def settings_in_force(self) -> list[SettingView]: ...

    def problems_of_readiness(self) -> list[str]:
        """Why this instance should get no requests now; empty: ready."""
