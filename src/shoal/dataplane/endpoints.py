"""What the public ports answer beside inferences: about the server, its models, the repository.

Values are JSON, as `describe` makes them; HTTP and gRPC put them into their own form. Must not know
either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from shoal.dataplane import describe
from shoal.dataplane.inference import Inference
from shoal.domain.errors import InvalidRequest, NotAllowed
from shoal.node.control import Control
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy

_TURN: Final = 50  # models that are described before others get their turn: a millisecond or two


class Endpoints:
    """One for all protocols of an instance. `control` carries out what the repository extension
    asks, where the settings allow it. version: None for the default one."""

    def __init__(self, instance: Instance, control: Control) -> None:
        self.inference: Final = Inference(instance)
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

    async def model_metadata(self, name: str, version: int | None) -> dict[str, object]:
        """Loads the model if need be. Raises as `Instance.acquire` does."""
        copy = await self.inference.ready_copy(name, version, self._timeout_s)
        try:
            return describe.metadata(copy, self._versions(copy))
        finally:
            copy.release()

    async def model_config(self, name: str, version: int | None) -> dict[str, object]:
        """As `model_metadata`."""
        copy = await self.inference.ready_copy(name, version, self._timeout_s)
        try:
            record = self._instance.record(name)
            return describe.config(copy, record.spec.version_policy)
        finally:
            copy.release()

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

    def model_statistics(self, name: str, version: int | None) -> list[dict[str, object]]:
        """Of all versions, or of one. Raises ModelNotFound, VersionNotFound."""
        record = self._instance.record(name)
        versions = [revision.version for revision in record.revisions]
        if version is not None:
            if version not in versions:
                self.check_ready(name, version)
            versions = [version]
        return self.inference.model_stats(name, versions)

    # --- the repository -------------------------------------------------------------------------

    async def index(self, *, only_ready: bool) -> AsyncIterator[list[dict[str, str]]]:
        """Every version with its state, in turns with other requests, which a long list must not
        hold up."""
        names = self._instance.replica.names()
        if only_ready:
            loaded = {copy.revision.model for copy in self._instance.live.values()}
            names = sorted(loaded.intersection(names))
        for turn in range(0, len(names), _TURN):
            yield [
                entry
                for name in names[turn : turn + _TURN]
                if name in self._instance.replica  # it was when the request came
                for entry in describe.index_entries(self._control.model(name), only_ready)
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
