"""Translates the operations on instances and models to HTTP and JSON, under `/api/v1`.

Decides nothing: every answer is `Control`'s. Knows neither how the server runs nor what is behind
`Control`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from shoal.domain.errors import (
    ArtifactError,
    Conflict,
    DeadlineExceeded,
    InvalidSpecification,
    ModelNotFound,
    NotFound,
    ShoalError,
    ShuttingDown,
    StoreUnavailable,
    Unavailable,
)
from shoal.domain.model import ModelSpec, check_spec
from shoal.domain.serving_runtime import ServingRuntime
from shoal.domain.views import (
    BatchOutcome,
    CredentialsDeleted,
    CredentialsList,
    CredentialsView,
    Drained,
    EventPage,
    InstanceView,
    ModelPage,
    ModelView,
    Outcome,
    RuntimeDeleted,
    RuntimeList,
    RuntimeView,
    SettingView,
    Status,
    Story,
)
from shoal.management.errors import RequestBoundary, answer_error
from shoal.management.health import Health
from shoal.management.metrics import Expose, Metrics
from shoal.management.openapi import Description
from shoal.management.operation import json_response, operation, operations_of, routes_of
from shoal.management.page import Page
from shoal.management.requests import (
    Batch,
    Credentials,
    DeleteRuntimeQuery,
    DrainQuery,
    EventsQuery,
    LoadQuery,
    ModelsQuery,
    Names,
    ReadQuery,
    RegisterQuery,
    UnnamedModelSpec,
    UnnamedServingRuntime,
)
from shoal.node.control import Control, ModelFilter
from shoal.node.questions import Leave

API: Final = "/api/v1"
_BATCH_BYTES: Final = 16 * 1024 * 1024  # room for 5,000 specifications with their tensors
_CREDENTIALS_BYTES: Final = 256 * 1024  # room for the certificates of all known authorities
_WRITES: Final = (ArtifactError, Conflict, StoreUnavailable, ShuttingDown)


class Models:
    """Operations on declared models."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @operation("GET", f"{API}/models", answers={200: ModelPage})
    async def list_models(self, query: ModelsQuery) -> Response:
        """A page of the registered models, by name."""
        wanted = ModelFilter(**msgspec.structs.asdict(query))
        return json_response(await self._control.list_models(wanted))

    @operation("POST", f"{API}/models", answers={201: ModelView}, raises=_WRITES)
    async def register_model(self, query: RegisterQuery, body: ModelSpec) -> Response:
        """Register a model, or replace what is registered under its name.

        The artifact is looked at, not loaded: the next request for the model loads it.
        """
        view = await self._control.register(body, create=query.create, read=query.read)
        return json_response(view, 201, {"Location": f"{API}/models/{view.name}"})

    @operation(
        "POST",
        f"{API}/models:batch",
        answers={200: BatchOutcome},
        raises=(InvalidSpecification,),
        max_body_bytes=_BATCH_BYTES,
    )
    async def register_models(self, query: ReadQuery, body: Batch) -> Response:
        """Register up to 5,000 models, each as if alone.

        What is wrong with the form of any of them refuses the whole batch before the first is
        registered; whatever fails later is told in that model's result, and the others go on.
        What is registered just so already is left as it is: a batch may be sent again.
        """
        for index, spec in enumerate(body):
            try:
                check_spec(spec)
            except InvalidSpecification as error:
                raise InvalidSpecification(f"[{index}]: {error.message}") from None
        results = await self._control.register_all(body, read=query.read)
        return json_response(BatchOutcome.of(results))

    @operation(
        "POST",
        f"{API}/models:unregister",
        answers={200: BatchOutcome},
        raises=(InvalidSpecification,),
        max_body_bytes=_BATCH_BYTES,
    )
    async def unregister_models(self, body: Names) -> Response:
        """Forget up to 5,000 models by their names. Their files stay where they are.

        Names that are not registered count as unchanged: a batch may be sent again.
        """
        return json_response(BatchOutcome.of(await self._control.unregister_all(body)))

    @operation("GET", f"{API}/models/{{name}}", answers={200: ModelView}, raises=(ModelNotFound,))
    async def get_model(self, name: str) -> Response:
        """A model, with its versions and what state they are in."""
        return json_response(await self._control.model(name))

    @operation("PUT", f"{API}/models/{{name}}", answers={200: ModelView}, raises=_WRITES)
    async def put_model(self, name: str, query: ReadQuery, body: UnnamedModelSpec) -> Response:
        """Register a model under the name in the path, or replace what is registered there.

        The name may be left out of the body; when it is there, it must be the path's.
        """
        _check_same("model", name, body.name)
        spec = ModelSpec(**{**msgspec.structs.asdict(body), "name": name})
        return json_response(await self._control.register(spec, read=query.read))

    @operation(
        "DELETE",
        f"{API}/models/{{name}}",
        answers={204: None},
        raises=(ModelNotFound, Conflict, StoreUnavailable, ShuttingDown),
    )
    async def unregister_model(self, name: str) -> Response:
        """Forget a model. Its files stay where they are.

        Requests that are running are answered; new ones get 404.
        """
        await self._control.unregister(name)
        return Response(status_code=204)

    @operation(
        "POST",
        f"{API}/models/{{name}}/load",
        answers={200: Outcome},
        raises=(NotFound, ArtifactError, Unavailable, DeadlineExceeded),
    )
    async def load_model(self, name: str, query: LoadQuery) -> Response:
        """Take a model back into service, and load it now."""
        return json_response(await self._control.load(name, query.version, wait=query.wait))

    @operation(
        "POST",
        f"{API}/models/{{name}}/unload",
        answers={200: Outcome},
        raises=(NotFound, Unavailable, DeadlineExceeded),
    )
    async def unload_model(self, name: str, query: LoadQuery) -> Response:
        """Take a model out of service and out of memory.

        Until it is loaded by hand or registered anew, requests for it are answered 503.
        """
        return json_response(await self._control.unload(name, query.version, wait=query.wait))

    @operation(
        "GET", f"{API}/models/{{name}}/explain", answers={200: Story}, raises=(ModelNotFound,)
    )
    async def explain_model(self, name: str) -> Response:
        """Why a model is loaded, or why it is not."""
        return json_response(await self._control.explain(name))


class Places:
    """Operations on the credentials of places where artifacts lie."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @operation(
        "GET", f"{API}/credentials", answers={200: CredentialsList}, raises=(InvalidSpecification,)
    )
    async def list_credentials(self) -> Response:
        """Named credentials, in the registry and in the files of this instance; never a value."""
        return json_response(await self._control.list_credentials())

    @operation(
        "GET", f"{API}/credentials/{{name}}", answers={200: CredentialsView},
        raises=(NotFound, InvalidSpecification),
    )
    async def get_credentials(self, name: str) -> Response:
        """What is used under a name: the type, and which fields are set; never a value."""
        return json_response(await self._control.credentials(name))

    @operation(
        "PUT", f"{API}/credentials/{{name}}", answers={200: CredentialsView},
        raises=(Conflict, StoreUnavailable, ShuttingDown), max_body_bytes=_CREDENTIALS_BYTES,
    )
    async def put_credentials(self, name: str, body: Credentials) -> Response:
        """Keep credentials in the registry, for all instances, or replace what is there.

        What is not said is not set. Other instances know them a moment later.
        """
        return json_response(await self._control.set_credentials(name, body))

    @operation(
        "DELETE", f"{API}/credentials/{{name}}", answers={200: CredentialsDeleted},
        raises=(NotFound, Conflict, InvalidSpecification, StoreUnavailable, ShuttingDown),
    )
    async def delete_credentials(self, name: str) -> Response:
        """Forget credentials, also where models use them; the answer says how many do.

        What is loaded or downloaded stays; what must be read again fails until there are others.
        """
        return json_response(await self._control.delete_credentials(name))


class Runtimes:
    """Operations on serving runtimes: model servers outside, and what the instances load
    themselves."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @operation("GET", f"{API}/runtimes", answers={200: RuntimeList})
    async def list_runtimes(self) -> Response:
        """What loads models: the instances themselves (`shoal`), then the declared servers."""
        return json_response(await self._control.list_runtimes())

    @operation(
        "GET", f"{API}/runtimes/{{name}}", answers={200: RuntimeView}, raises=(NotFound,)
    )
    async def get_runtime(self, name: str) -> Response:
        """A serving runtime, with its declaration."""
        return json_response(await self._control.runtime(name))

    @operation(
        "PUT", f"{API}/runtimes/{{name}}", answers={200: RuntimeView},
        raises=(InvalidSpecification, StoreUnavailable, ShuttingDown),
    )
    async def put_runtime(self, name: str, body: UnnamedServingRuntime) -> Response:
        """Declare a serving runtime for all instances, or replace what has the name.

        Models that no runtime took so far, and that this one takes, are served a moment later.
        """
        _check_same("runtime", name, body.name)
        serving = ServingRuntime(**{**msgspec.structs.asdict(body), "name": name})
        return json_response(await self._control.declare_runtime(serving))

    @operation(
        "POST", f"{API}/runtimes/{{name}}/enable", answers={200: RuntimeView},
        raises=(NotFound, Conflict, StoreUnavailable, ShuttingDown),
    )
    async def enable_runtime(self, name: str) -> Response:
        """Let models be loaded into a serving runtime again."""
        return json_response(await self._control.enable_runtime(name, enabled=True))

    @operation(
        "POST", f"{API}/runtimes/{{name}}/disable", answers={200: RuntimeView},
        raises=(NotFound, Conflict, StoreUnavailable, ShuttingDown),
    )
    async def disable_runtime(self, name: str) -> Response:
        """Let no more models be loaded into a serving runtime. What is loaded stays."""
        return json_response(await self._control.enable_runtime(name, enabled=False))

    @operation(
        "DELETE", f"{API}/runtimes/{{name}}", answers={200: RuntimeDeleted},
        raises=(NotFound, Conflict, StoreUnavailable, ShuttingDown),
    )
    async def delete_runtime(self, name: str, query: DeleteRuntimeQuery) -> Response:
        """Forget a serving runtime; 409 while models use it, unless forced."""
        return json_response(await self._control.delete_runtime(name, force=query.force))


class Instance:
    """Operations on what runs."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @operation("GET", f"{API}/instances", answers={200: list[InstanceView]})
    async def list_instances(self) -> Response:
        """The serving processes of the mesh, their memory and how they do.

        Also those that cannot be reached, with what was heard of them last.
        """
        return json_response(await self._control.instances())

    @operation(
        "POST",
        f"{API}/instances/{{id}}/drain",
        answers={200: Drained},
        raises=(NotFound, Conflict, Unavailable),
    )
    async def drain_instance(self, id: str, query: DrainQuery) -> Response:  # noqa: A002 -- as in the path
        """Have an instance hand over what it holds to the others, or come back.

        It takes no more loads, counts as unready, and goes on answering what comes to it. Answers
        when others have loaded all that was used lately, or after `timeout_s`.
        """
        wish = Leave(query.timeout_s, query.undo, query.stop)
        return json_response(await self._control.drain(id, wish))

    @operation(
        "GET", f"{API}/events", answers={200: EventPage}, raises=(NotFound, Unavailable)
    )
    async def list_events(self, query: EventsQuery) -> Response:
        """What happened and what was decided, with the reasons, oldest first.

        Of all instances in order of time, or of one.
        """
        return json_response(await self._control.events(
            query.after, query.limit, query.model, query.instance))

    @operation("GET", f"{API}/settings", answers={200: list[SettingView]})
    async def list_settings(self) -> Response:
        """The settings in force, and where each comes from. Secrets are hidden."""
        return json_response(self._control.settings_in_force())

    @operation("GET", f"{API}/status", answers={200: Status})
    async def get_status(self) -> Response:
        """How it goes: totals, latencies, the busiest models, and problems to look at."""
        return json_response(await self._control.status())


def create_app(control: Control, expose: Expose) -> Starlette:
    """The ASGI application of the management port.

    expose: gives the metrics page for the value of an Accept header, with its content type.
    """
    description = Description()
    owners: tuple[Any, ...] = (
        Models(control), Places(control), Runtimes(control), Instance(control), description,
        Health(control), Metrics(expose), Page(control),
    )
    description.operations = [each for owner in owners for each in operations_of(owner)]
    app = Starlette(
        routes=routes_of(description.operations),
        middleware=[Middleware(RequestBoundary)],
        exception_handlers={ShoalError: answer_error, HTTPException: answer_error},
    )
    app.router.redirect_slashes = False  # one address for each thing; a slash more is a 404
    return app


def _check_same(kind: str, name: str, said: str) -> None:
    """Raise InvalidSpecification when a body says another name than the path."""
    if said not in ("", name):
        raise InvalidSpecification(
            f"the path names the {kind} {name!r}, the body {said!r}; leave the name out of the body"
        )
