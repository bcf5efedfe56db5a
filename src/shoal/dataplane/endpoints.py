"""What the public ports answer beside inferences: about the server, its models, the repository.

Values are JSON, as `describe` makes them; HTTP and gRPC put them into their own form. Must not know
either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, TypeVar

from shoal.dataplane import describe
from shoal.dataplane.inference import Inference
from shoal.dataplane.peer.forwarding import Answer, Asked, Links
from shoal.dataplane.statistics import Statistics, summed, told
from shoal.domain.errors import InvalidRequest, NotAllowed
from shoal.node.control import Control
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy
from shoal.node.questions import Counted

T = TypeVar("T")

_TURN: Final = 50  # models that are described before others get their turn: a millisecond or two


class Endpoints:
    """One for all protocols of an instance. `control` carries out what the repository extension
    asks, where the settings allow it. links: to the other instances of the mesh; None: this one is
    alone. version: None for the default one."""

    def __init__(
        self, instance: Instance, control: Control, links: Links | None = None
    ) -> None:
        self.inference: Final = Inference(instance, links)
        self._instance = instance
        self._control = control
        self._timeout_s = instance.settings.request.timeout_s
        self._allow_control = instance.settings.request.repository_control

    # --- the server -----------------------------------------------------------------------------

    def server_metadata(self) -> dict[str, object]:
        return describe.server(repository_control=self._allow_control)

    def server_ready(self) -> bool:
        return not self._control.problems_of_readiness()

    # --- a model --------------------------------------------------------------------------------

    async def model_metadata(self, asked: Asked[T]) -> dict[str, object] | T:
        """Loads the model if need be; what another instance answers that has it comes as it is.
        Raises as `Instance.acquire` does."""
        return await self._described(
            asked, lambda copy: describe.metadata(copy, self._versions(copy)))

    async def model_config(self, asked: Asked[T]) -> dict[str, object] | T:
        """As `model_metadata`."""
        return await self._described(asked, lambda copy: describe.config(
            copy, self._instance.record(copy.revision.model).spec.version_policy))

    async def _described(
        self, asked: Asked[T], describe_copy: Callable[[LiveCopy], dict[str, object]]
    ) -> dict[str, object] | T:
        found = await self.inference.reach(asked, self._timeout_s)
        if isinstance(found, Answer):
            answer: T = found.answer
            return answer
        try:
            return describe_copy(found)
        finally:
            found.release()

    def check_ready(self, name: str, version: int | None) -> None:
        """Raise what the next request for the model would be refused with."""
        problem = describe.why_not_ready(self._instance, name, version)
        if problem is not None:
            raise problem

    def _versions(self, copy: LiveCopy) -> list[int]:
        record = self._instance.replica.get(copy.revision.model)
        if record is None:
            return [copy.revision.version]
        return [revision.version for revision in record.revisions]

    # --- statistics -----------------------------------------------------------------------------

    async def model_statistics(
        self, name: str, version: int | None
    ) -> list[dict[str, object]]:
        """Of all versions, or of one, on all instances together. Raises ModelNotFound,
        VersionNotFound."""
        record = self._instance.record(name)
        versions = [revision.version for revision in record.revisions]
        if version is not None:
            if version not in versions:
                self.check_ready(name, version)
            versions = [version]
        found = await self._counted(name)
        return [
            describe.statistics(name, each, found.get((name, each), Statistics()))
            for each in versions
        ]

    async def all_statistics(self) -> list[dict[str, object]]:
        """Of every version that is in memory or answered requests, and is still served."""
        return [
            describe.statistics(name, version, counted)
            for (name, version), counted in sorted((await self._counted(None)).items(), key=_key)
            if (record := self._instance.replica.get(name)) is not None
            and any(each.version == version for each in record.revisions)
        ]

    async def _counted(self, model: str | None) -> dict[tuple[str, int], Statistics]:
        return summed(self.inference.counted(model), await self._control.statistics(model))

    def counted_here(self, model: str | None) -> list[Counted]:
        """What this instance alone counted, for those that ask it; None: of all models."""
        return [told(*key, counted) for key, counted in self.inference.counted(model).items()]

    # --- the repository -------------------------------------------------------------------------

    async def index(self, *, only_ready: bool) -> AsyncIterator[list[dict[str, str]]]:
        """Every version with its state, in turns with other requests, which a long list must not
        hold up."""
        names = self._instance.replica.names()
        if only_ready:
            names = await self._control.loaded_models()
        for turn in range(0, len(names), _TURN):
            yield [
                entry
                for model in await self._control.models(names[turn : turn + _TURN])
                for entry in describe.index_entries(model, only_ready)
            ]
            await asyncio.sleep(0)

    async def load(self, name: str, parameters: Mapping[str, object]) -> None:
        """Raises NotAllowed where the settings do not allow it, and why the load failed."""
        self.check_control("load")
        if parameters:
            raise InvalidRequest(
                f"load takes no parameters here, but {', '.join(sorted(parameters))} came; "
                "change the model's files or its registration instead"
            )
        await self._control.load(name)

    async def unload(self, name: str) -> None:
        """As `load`."""
        self.check_control("unload")
        await self._control.unload(name)

    def check_control(self, what: str) -> None:
        """what: load or unload. Raises NotAllowed."""
        if not self._allow_control:
            raise NotAllowed(
                f"the public port may not {what} models (request.repository_control is off); use "
                "the management API, or start with --request-repository-control"
            )


def _key(item: tuple[tuple[str, int], Statistics]) -> tuple[str, int]:
    return item[0]
