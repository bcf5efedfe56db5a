"""The blocking client: carries out the conversations of `calls` and `inference` with httpx2.

Decides nothing; `aio` is the same for asyncio.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack

import httpx2

from shoal.client import calls, inference
from shoal.client.calls import Call, ModelMetadata, ModelQuery, ServerMetadata
from shoal.client.declaring import SpecFields, encoded_specs, pages, spec_of
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

T = TypeVar("T")


class Client:
    """A Shoal server; for inference, any server of the Open Inference Protocol.

    server: address of the inference port. management: address of the management port; default: the
    same host, port 8082. timeout_s: seconds a call may take, repetitions included, unless it says
    otherwise. headers: sent with every request. retry: how calls are repeated. http: an httpx2
    client to use instead of an own one, for certificates or proxies; it is not closed.

    All methods raise the errors of `shoal.domain.errors`; ConnectionFailed when there is no server,
    DeadlineExceeded when the time is over. May be used by several threads.
    """

    def __init__(
        self,
        server: str = "http://localhost:8080",
        *,
        management: str | None = None,
        timeout_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
        retry: Retry = Retry(),  # noqa: B008 -- frozen
        http: httpx2.Client | None = None,
    ) -> None:
        self._endpoints: Final = Endpoints.of(server, management)
        self._timeout_s = timeout_s
        self._headers = default_headers(headers)
        self._retry = retry
        self._owned = http is None
        self._http = http or httpx2.Client(trust_env=not self._endpoints.local)
        self._known: dict[tuple[str, int | str | None], ModelMetadata] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        if self._owned:
            self._http.close()

    # --- inference ------------------------------------------------------------------------------

    def infer(
        self, model: str, inputs: Inputs, **wishes: Unpack[WishFields]
    ) -> Result:
        """Run a model (V2).

        inputs: arrays or lists by input name; or, for a model with one input, just its values; or a
        pandas DataFrame, each column an input. Arrays are sent in their own type, lists in the
        type the model declares.
        wishes: version (default: the server's choice); outputs, names wanted (default: the
        model's); parameters for the model; id, which comes back; binary=False for tensors in JSON;
        repeatable=False when running it twice does harm, so that a lost connection is an error;
        timeout_s, seconds for all of it.

        Raises ModelNotFound, InvalidInput, ModelFailed, LoadFailed, NoRoom and others.
        """
        said, timeout_s = Wishes.of(wishes)
        return self._run(inference.infer(model, inputs, said, self._known), timeout_s)

    def predict(
        self,
        model: str,
        instances: Values | Mapping[str, Values],
        *,
        timeout_s: float | None = None,
        repeatable: bool = True,
    ) -> list[JsonValue]:
        """Run a model (V1): rows in, a prediction a row out. A dict is taken as columns."""
        return self._run(inference.predict(model, instances, repeatable=repeatable), timeout_s)

    def server_live(self) -> bool:
        """Whether the process answers. No answer is a ConnectionFailed."""
        return self.ask(calls.server_live())

    def server_ready(self) -> bool:
        """Whether the server takes requests."""
        return self.ask(calls.server_ready())

    def server_metadata(self) -> ServerMetadata:
        """Name, version and protocol extensions of the server."""
        return self.ask(calls.server_metadata())

    def model_ready(self, model: str, version: int | str | None = None) -> bool:
        """Whether the model can be asked. Raises ModelNotFound."""
        return self.ask(calls.model_ready(model, version))

    def model_metadata(self, model: str, version: int | str | None = None) -> ModelMetadata:
        """Names, datatypes and shapes of the model's inputs and outputs."""
        return self.ask(calls.model_metadata(model, version))

    # --- management -----------------------------------------------------------------------------

    def register(
        self,
        model: str | ModelSpec,
        uri: str | None = None,
        *,
        create: bool = False,
        read: bool = True,
        **fields: Unpack[SpecFields],
    ) -> views.ModelView:
        """Declare a model: a name and a URI with further fields of ModelSpec, or a whole one.

        Replaces what had the name; with `create` that is a Conflict. A local path means the
        server's file system. With read=False the server does not look at the files before it loads
        them: `format` and `digest` must be given. Raises InvalidSpecification, ArtifactError.
        """
        return self.ask(calls.register(spec_of(model, uri, fields), create=create, read=read))

    def register_many(
        self,
        models: Iterable[ModelSpec | Mapping[str, object]],
        *,
        read: bool = True,
        page_size: int = 1_000,
    ) -> Iterator[views.Registered]:
        """Declare any number of models, a page a call; what became of each, in their order.

        models: whole ModelSpecs, or mappings of their fields. What fails is told in its result; a
        wrong specification raises InvalidSpecification when its page's turn comes. What is
        registered just so already is left as it is (`unchanged`), so all may be sent again after
        an interruption. Nothing is sent before the first result is asked for.
        """
        for page in pages(encoded_specs(models), page_size):
            yield from self.ask(calls.register_batch(page, read=read)).results

    def unregister(self, name: str) -> None:
        """Take the model's declaration back. Its files stay."""
        self.ask(calls.unregister(name))

    def unregister_many(
        self, names: Iterable[str], *, page_size: int = 1_000
    ) -> Iterator[views.Registered]:
        """Take the declarations of any number of models back, a page a call; what became of each,
        in their order. Names that are not registered are `unchanged`."""
        for page in pages(names, page_size):
            yield from self.ask(calls.unregister_batch(page)).results

    def models(
        self,
        *,
        state: views.State | str | None = None,
        contains: str | None = None,
        format: str | None = None,  # noqa: A002 -- the specification's word
        label: str | None = None,
        page_size: int = 100,
    ) -> Iterator[views.ModelView]:
        """Registered models by name, fetched a page at a time. label: `key=value` or `key`."""
        query: ModelQuery | None = ModelQuery(state, contains, format, label, limit=page_size)
        while query is not None:
            page = self.ask(calls.models(query))
            yield from page.models
            query = query.following(page)

    def model(self, name: str) -> views.ModelView:
        """One model with its versions."""
        return self.ask(calls.model(name))

    def load(
        self,
        name: str,
        version: int | None = None,
        *,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> views.Outcome:
        """Take the model (back) into service and load it. wait: until it is ready.

        Raises LoadFailed with the cause, NoRoom.
        """
        return self.ask(calls.load(name, version, wait=wait), timeout_s)

    def unload(
        self,
        name: str,
        version: int | None = None,
        *,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> views.Outcome:
        """Take the model out of service and out of memory, until it is loaded by hand."""
        return self.ask(calls.unload(name, version, wait=wait), timeout_s)

    def explain(self, name: str) -> views.Story:
        """Why the model is loaded or not, what failed, what happened."""
        return self.ask(calls.explain(name))

    def events(
        self, after: int = 0, limit: int = 100, model: str | None = None
    ) -> views.EventPage:
        """What happened, oldest first; `after`: the last page's `next`."""
        return self.ask(calls.events(after, limit, model))

    def instances(self) -> list[views.InstanceView]:
        """The serving processes."""
        return self.ask(calls.instances())

    def status(self) -> views.Status:
        """Everything at a glance."""
        return self.ask(calls.status())

    def settings(self) -> list[views.SettingView]:
        """The settings in force and where each comes from."""
        return self.ask(calls.settings())

    # --- any call -------------------------------------------------------------------------------

    def ask(self, call: Call[T], timeout_s: float | None = None) -> T:
        """Carry out one call of `shoal.client.calls`."""
        return self._run(calls.asked(call), timeout_s)

    def ask_raw(self, call: Call[T], timeout_s: float | None = None) -> bytes:
        """The same, with the body of the answer as the server wrote it."""
        return self._run(calls.asked_raw(call), timeout_s)

    def _run(self, conversation: Conversation[T], timeout_s: float | None) -> T:
        whole_s = self._timeout_s if timeout_s is None else timeout_s
        course = steps(conversation, self._retry, whole_s)
        outcome: Outcome = None
        while True:
            try:
                step = course.send(outcome)
            except StopIteration as end:
                value: T = end.value
                return value
            if isinstance(step, Send):
                outcome = self._send(step)
            else:
                time.sleep(step.seconds)
                outcome = None

    def _send(self, send: Send) -> Outcome:
        deadline = time.monotonic() + send.timeout_s
        url = self._endpoints.url(send.exchange.side, send.exchange.path)
        request = request_of(self._http, url, self._headers, send)
        try:
            response = self._http.send(request, stream=True)
            try:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    # httpx2 limits each read, not their sum.
                    if time.monotonic() > deadline:
                        return overdue(send, url)
            finally:
                response.close()
        except httpx2.RequestError as error:
            return failure_of(error, self._endpoints, send)
        return answer_of(response, b"".join(parts), url)
