"""Translates the operations of an instance to HTTP and JSON, under `/api/v1`.

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
from shoal.domain.views import (
    BatchOutcome,
    EventPage,
    InstanceView,
    ModelPage,
    ModelView,
    Outcome,
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
    EventsQuery,
    LoadQuery,
    ModelsQuery,
    Names,
    ReadQuery,
    RegisterQuery,
    UnnamedModelSpec,
)
from shoal.node.control import Control, ModelFilter

API: Final = "/api/v1"
_BATCH_BYTES: Final = 16 * 1024 * 1024  # room for 5,000 specifications with their tensors
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
        return json_response(self._control.model(name))

    @operation("PUT", f"{API}/models/{{name}}", answers={200: ModelView}, raises=_WRITES)
    async def put_model(self, name: str, query: ReadQuery, body: UnnamedModelSpec) -> Response:
        """Register a model under the name in the path, or replace what is registered there.

        The name may be left out of the body; when it is there, it must be the path's.
        """
        if body.name not in ("", name):
            raise InvalidSpecification(
                f"the path names the model {name!r}, the body {body.name!r}; "
                "leave the name out of the body"
            )
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
        return json_response(self._control.explain(name))


class Instance:
    """Operations on what runs."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @operation("GET", f"{API}/instances", answers={200: list[InstanceView]})
    async def list_instances(self) -> Response:
        """The serving processes and their memory."""
        return json_response(self._control.instances())

    @operation("GET", f"{API}/events", answers={200: EventPage})
    async def list_events(self, query: EventsQuery) -> Response:
        """What happened and what was decided, with the reasons, oldest first."""
        return json_response(self._control.events(query.after, query.limit, query.model))

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
        Models(control), Instance(control), description, Health(control), Metrics(expose),
        Page(control),
    )
    description.operations = [each for owner in owners for each in operations_of(owner)]
    app = Starlette(
        routes=routes_of(description.operations),
        middleware=[Middleware(RequestBoundary)],
        exception_handlers={ShoalError: answer_error, HTTPException: answer_error},
    )
    app.router.redirect_slashes = False  # one address for each thing; a slash more is a 404
    return app
