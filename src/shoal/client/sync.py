"""The blocking client: carries out the conversations of `calls` and `inference` with httpx2.

Decides nothing; `aio` is the same for asyncio.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Client:
    """A Shoal server, or several that serve the same; for inference, any server of the Open
    Inference Protocol.

    server: address of the inference port, or a list of them: requests are shared out among those
    that answer, and go on to the next when one does not. management: address of the management
    port, or a list, of which one is used while it answers; default: the same hosts, port 8082.
    timeout_s: seconds a call may take, repetitions included, unless it says otherwise. headers:
    sent with every request. retry: how calls are repeated. http: an httpx2 client to use instead of
    an own one, for certificates or proxies; it is not closed.

    All methods raise the errors of `shoal.domain.errors`; ConnectionFailed when there is no server,
    DeadlineExceeded when the time is over. May be used by several threads.
    """

    def __init__(
        self,
        server: str | Sequence[str] = "http://localhost:8080",
        *,
        management: str | Sequence[str] | None = None,
        timeout_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
        retry: Retry = Retry(),  # noqa: B008 -- frozen
        http: httpx2.Client | None = None,
    ) -> None:
        endpoints = Endpoints.of(server, management)
        self._addresses: Final = addresses_of(endpoints, retry.random())
        self._timeout_s = timeout_s
        self._headers = default_headers(headers)
        self._retry = retry
        self._owned = http is None
        self._http = http or httpx2.Client(trust_env=not endpoints.local)
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
        repeatable=False when running it twice does harm, so that a connection lost after the
        request was sent is an error;
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
        """Whether a process answers. No answer is a ConnectionFailed."""
        return self.ask(calls.server_live())

    def server_ready(self) -> bool:
        """Whether the server, or one of several, takes requests."""
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
        self, after: int = 0, limit: int = 100, model: str | None = None,
        instance: str | None = None,
    ) -> views.EventPage:
        """What happened, oldest first; `after`: the last page's `next`. Of all instances in order
        of time, or of one."""
        return self.ask(calls.events(after, limit, model, instance))

    def instances(self) -> list[views.InstanceView]:
        """The serving processes, also those that cannot be reached."""
        return self.ask(calls.instances())

    def drain(
        self, instance: str, *, timeout_s: int = 30, undo: bool = False, stop: bool = False
    ) -> views.Drained:
        """Have an instance hand over what it holds to the others, or (undo) come back; it goes on
        answering. timeout_s: how long to wait for the others. stop: end it afterwards.

        Raises NotFound, Conflict when nobody could take over.
        """
        call = calls.drain(instance, timeout_s=timeout_s, undo=undo, stop=stop)
        return self.ask(call, max(self._timeout_s, timeout_s + 10.0))

    def status(self) -> views.Status:
        """Everything at a glance."""
        return self.ask(calls.status())

    def set_credentials(
        self, name: str, type: str, **fields: CredentialValue  # noqa: A002 -- the field's name
    ) -> views.CredentialsView:
        """Keep credentials in the registry under a name, for all instances, or replace them.

        type: `s3`, `gcs`, `azure`, `http`, `hf`, `oci`, `git` or `mlflow`; fields: those of that
        type. No method gives them back. Raises InvalidSpecification, Conflict when a file of the
        server has the name.
        """
        return self.ask(calls.set_credentials(name, {"type": type, **fields}))

    def list_credentials(self) -> list[views.CredentialsView]:
        """Named credentials in the registry and in files of the server asked: of what type they are
        and which fields are set; never a value."""
        return self.ask(calls.credentials()).credentials

    def get_credentials(self, name: str) -> views.CredentialsView:
        """The same of those that are used under a name. Raises NotFound."""
        return self.ask(calls.credentials_of(name))

    def delete_credentials(self, name: str) -> views.CredentialsDeleted:
        """Take credentials out of the registry; says how many models use them. Raises NotFound."""
        return self.ask(calls.delete_credentials(name))

    def list_runtimes(self) -> list[views.RuntimeView]:
        """What loads models: the instances themselves, called `shoal`, and serving runtimes."""
        return self.ask(calls.runtimes()).runtimes

    def get_runtime(self, name: str) -> views.RuntimeView:
        """A serving runtime, with its declaration. Raises NotFound."""
        return self.ask(calls.runtime(name))

    def declare_runtime(
        self, runtime: ServingRuntime | Mapping[str, object]
    ) -> views.RuntimeView:
        """Declare a serving runtime for all instances, or replace what has its name.

        runtime: a ServingRuntime, or its fields. Raises InvalidSpecification.
        """
        return self.ask(calls.declare_runtime(serving_of(runtime)))

    def enable_runtime(self, name: str) -> views.RuntimeView:
        """Let models be loaded into it again. Raises NotFound, Conflict for `shoal`."""
        return self.ask(calls.enable_runtime(name, enabled=True))

    def disable_runtime(self, name: str) -> views.RuntimeView:
        """Let no more models be loaded into it; what is loaded stays. Raises as the above."""
        return self.ask(calls.enable_runtime(name, enabled=False))

    def delete_runtime(self, name: str, *, force: bool = False) -> views.RuntimeDeleted:
        """Forget it; says how many models used it. Raises NotFound; Conflict while models use it,
        unless `force`."""
        return self.ask(calls.delete_runtime(name, force=force))

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
                    outcome = self._send(step)
                else:
                    time.sleep(step.seconds)
                    outcome = None

    def _send(self, send: Send) -> Outcome:
        deadline = time.monotonic() + send.timeout_s
        request = request_of(self._http, self._headers, send)
        try:
            response = self._http.send(request, stream=True)
            try:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    # httpx2 limits each read, not their sum.
                    if time.monotonic() > deadline:
                        return overdue(send)
            finally:
                response.close()
        except httpx2.RequestError as error:
            return failure_of(error, send)
        return answer_of(response, b"".join(parts), send)
