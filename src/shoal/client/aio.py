"""The asyncio client: carries out the conversations of `calls` and `inference` with httpx2.

Decides nothing; `sync` is the same for blocking code, and documents the methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack

import httpx2

from shoal.client import calls, inference
from shoal.client.calls import Call, ModelMetadata, ModelQuery, ServerMetadata
from shoal.client.choosing import addresses_of
from shoal.client.declaring import (
    CredentialValue,
    SpecFields,
    encoded_specs,
    pages,
    serving_of,
    spec_of,
)
from shoal.client.endpoints import Endpoints
from shoal.client.inference import Inputs, Result, Values, Wishes, WishFields
from shoal.client.retry import Conversation, Outcome, Retry, Send, steps
from shoal.client.transport import (
    answer_of,
    default_headers,
    failure_of,
    overdue,
    request_of,
)
from shoal.domain import views
from shoal.domain.model import JsonValue, ModelSpec
from shoal.domain.serving_runtime import ServingRuntime

T = TypeVar("T")


class AsyncClient:
    """`shoal.Client` for asyncio: the same methods, awaited; `models`, `register_many` and
    `unregister_many` are asynchronous iterators.

    For one event loop. A cancelled call closes its connection.
    """

    def __init__(
        self,
        server: str | Sequence[str] = "http://localhost:8080",
        *,
        management: str | Sequence[str] | None = None,
        timeout_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
        retry: Retry = Retry(),  # noqa: B008 -- frozen
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        endpoints = Endpoints.of(server, management)
        self._addresses: Final = addresses_of(endpoints, retry.random())
        self._timeout_s = timeout_s
        self._headers = default_headers(headers)
        self._retry = retry
        self._owned = http is None
        self._http = http or httpx2.AsyncClient(trust_env=not endpoints.local)
        self._known: dict[tuple[str, int | str | None], ModelMetadata] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        if self._owned:
            await self._http.aclose()

    # --- inference ------------------------------------------------------------------------------

    async def infer(
        self, model: str, inputs: Inputs, **wishes: Unpack[WishFields]
    ) -> Result:
        """As `Client.infer`."""
        said, timeout_s = Wishes.of(wishes)
        return await self._run(inference.infer(model, inputs, said, self._known), timeout_s)

    async def predict(
        self,
        model: str,
        instances: Values | Mapping[str, Values],
        *,
        timeout_s: float | None = None,
        repeatable: bool = True,
    ) -> list[JsonValue]:
        """As `Client.predict`."""
        course = inference.predict(model, instances, repeatable=repeatable)
        return await self._run(course, timeout_s)

    async def server_live(self) -> bool:
        """As `Client.server_live`."""
        return await self.ask(calls.server_live())

    async def server_ready(self) -> bool:
        """As `Client.server_ready`."""
        return await self.ask(calls.server_ready())

    async def server_metadata(self) -> ServerMetadata:
        """As `Client.server_metadata`."""
        return await self.ask(calls.server_metadata())

    async def model_ready(self, model: str, version: int | str | None = None) -> bool:
        """As `Client.model_ready`."""
        return await self.ask(calls.model_ready(model, version))

    async def model_metadata(self, model: str, version: int | str | None = None) -> ModelMetadata:
        """As `Client.model_metadata`."""
        return await self.ask(calls.model_metadata(model, version))

    # --- management -----------------------------------------------------------------------------

    async def register(
        self,
        model: str | ModelSpec,
        uri: str | None = None,
        *,
        create: bool = False,
        read: bool = True,
        **fields: Unpack[SpecFields],
    ) -> views.ModelView:
        """As `Client.register`."""
        spec = spec_of(model, uri, fields)
        return await self.ask(calls.register(spec, create=create, read=read))

    async def register_many(
        self,
        models: Iterable[ModelSpec | Mapping[str, object]],
        *,
        read: bool = True,
        page_size: int = 1_000,
    ) -> AsyncIterator[views.Registered]:
        """As `Client.register_many`."""
        for page in pages(encoded_specs(models), page_size):
            for result in (await self.ask(calls.register_batch(page, read=read))).results:
                yield result

    async def unregister(self, name: str) -> None:
        """As `Client.unregister`."""
        await self.ask(calls.unregister(name))

    async def unregister_many(
        self, names: Iterable[str], *, page_size: int = 1_000
    ) -> AsyncIterator[views.Registered]:
        """As `Client.unregister_many`."""
        for page in pages(names, page_size):
            for result in (await self.ask(calls.unregister_batch(page))).results:
                yield result

    async def models(
        self,
        *,
        state: views.State | str | None = None,
        contains: str | None = None,
        format: str | None = None,  # noqa: A002 -- the specification's word
        label: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[views.ModelView]:
        """As `Client.models`."""
        query: ModelQuery | None = ModelQuery(state, contains, format, label, limit=page_size)
        while query is not None:
            page = await self.ask(calls.models(query))
            for view in page.models:
                yield view
            query = query.following(page)

    async def model(self, name: str) -> views.ModelView:
        """As `Client.model`."""
        return await self.ask(calls.model(name))

    async def load(
        self,
        name: str,
        version: int | None = None,
        *,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> views.Outcome:
        """As `Client.load`."""
        return await self.ask(calls.load(name, version, wait=wait), timeout_s)

    async def unload(
        self,
        name: str,
        version: int | None = None,
        *,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> views.Outcome:
        """As `Client.unload`."""
        return await self.ask(calls.unload(name, version, wait=wait), timeout_s)

    async def explain(self, name: str) -> views.Story:
        """As `Client.explain`."""
        return await self.ask(calls.explain(name))

    async def events(
        self, after: int = 0, limit: int = 100, model: str | None = None,
        instance: str | None = None,
    ) -> views.EventPage:
        """As `Client.events`."""
        return await self.ask(calls.events(after, limit, model, instance))

    async def instances(self) -> list[views.InstanceView]:
        """As `Client.instances`."""
        return await self.ask(calls.instances())

    async def drain(
        self, instance: str, *, timeout_s: int = 30, undo: bool = False, stop: bool = False
    ) -> views.Drained:
        """As `Client.drain`."""
        call = calls.drain(instance, timeout_s=timeout_s, undo=undo, stop=stop)
        return await self.ask(call, max(self._timeout_s, timeout_s + 10.0))

    async def status(self) -> views.Status:
        """As `Client.status`."""
        return await self.ask(calls.status())

    async def set_credentials(
        self, name: str, type: str, **fields: CredentialValue  # noqa: A002 -- the field's name
    ) -> views.CredentialsView:
        """As `Client.set_credentials`."""
        return await self.ask(calls.set_credentials(name, {"type": type, **fields}))

    async def list_credentials(self) -> list[views.CredentialsView]:
        """As `Client.list_credentials`."""
        return (await self.ask(calls.credentials())).credentials

    async def get_credentials(self, name: str) -> views.CredentialsView:
        """As `Client.get_credentials`."""
        return await self.ask(calls.credentials_of(name))

    async def delete_credentials(self, name: str) -> views.CredentialsDeleted:
        """As `Client.delete_credentials`."""
        return await self.ask(calls.delete_credentials(name))

    async def list_runtimes(self) -> list[views.RuntimeView]:
        """As `Client.list_runtimes`."""
        return (await self.ask(calls.runtimes())).runtimes

    async def get_runtime(self, name: str) -> views.RuntimeView:
        """As `Client.get_runtime`."""
        return await self.ask(calls.runtime(name))

    async def declare_runtime(
        self, runtime: ServingRuntime | Mapping[str, object]
    ) -> views.RuntimeView:
        """As `Client.declare_runtime`."""
        return await self.ask(calls.declare_runtime(serving_of(runtime)))

    async def enable_runtime(self, name: str) -> views.RuntimeView:
        """As `Client.enable_runtime`."""
        return await self.ask(calls.enable_runtime(name, enabled=True))

    async def disable_runtime(self, name: str) -> views.RuntimeView:
        """As `Client.disable_runtime`."""
        return await self.ask(calls.enable_runtime(name, enabled=False))

    async def delete_runtime(self, name: str, *, force: bool = False) -> views.RuntimeDeleted:
        """As `Client.delete_runtime`."""
        return await self.ask(calls.delete_runtime(name, force=force))

    async def settings(self) -> list[views.SettingView]:
        """As `Client.settings`."""
        return await self.ask(calls.settings())

    # --- any call -------------------------------------------------------------------------------

    async def ask(self, call: Call[T], timeout_s: float | None = None) -> T:
        """As `Client.ask`."""
        return await self._run(calls.asked(call), timeout_s)

    async def ask_raw(self, call: Call[T], timeout_s: float | None = None) -> bytes:
        """As `Client.ask_raw`."""
        return await self._run(calls.asked_raw(call), timeout_s)

    async def _run(self, conversation: Conversation[T], timeout_s: float | None) -> T:
        whole_s = self._timeout_s if timeout_s is None else timeout_s
        outcome: Outcome = None
        # Closed, so that a send that is given up ends for `choosing` too.
        with closing(steps(conversation, self._retry, self._addresses, whole_s)) as course:
            while True:
                try:
                    step = course.send(outcome)
                except StopIteration as end:
                    value: T = end.value
                    return value
                if isinstance(step, Send):
                    outcome = await self._send(step)
                else:
                    await asyncio.sleep(step.seconds)
                    outcome = None

    async def _send(self, send: Send) -> Outcome:
        request = request_of(self._http, self._headers, send)
        try:
            async with asyncio.timeout(send.timeout_s):
                response = await self._http.send(request)
        except TimeoutError:
            return overdue(send)
        except httpx2.RequestError as error:
            return failure_of(error, send)
        return answer_of(response, response.content, send)
