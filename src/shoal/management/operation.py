"""What an operation of the API is: a method and a path, what it takes, answers and raises.

Handlers declare it once, by `@operation` and by their signature; the routes and the OpenAPI
document both follow from that. Knows nothing of particular operations.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shoal.domain.errors import ShoalError
from shoal.management.reading import read_json, read_query, refuse_cross_site

MAX_BODY_BYTES: Final = 1024 * 1024
SAFE_METHODS: Final = frozenset({"GET"})
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Response]])


class NoQuery(msgspec.Struct):
    """Of operations that take no query parameters."""


@dataclass(frozen=True, slots=True)
class Media:
    """The content of a response that is not JSON of a type: its media types."""

    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Declaration:
    """answers: by status, the type whose JSON is sent, a Media, or None for no content.
    raises: the errors that may be answered beside those every operation may give.
    """

    method: str
    path: str
    answers: Mapping[int, Any]
    raises: tuple[type[ShoalError], ...] = ()
    max_body_bytes: int = MAX_BODY_BYTES


@dataclass(frozen=True, slots=True)
class Operation:
    """A declaration bound to its handler. `body`: the type of the JSON body; None: takes none."""

    declared: Declaration
    call: Callable[..., Awaitable[Response]]
    query: type[msgspec.Struct]
    body: Any
    wants: frozenset[str]

    @property
    def name(self) -> str:
        return self.call.__name__

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.call) or ""

    async def answer(self, request: Request) -> Response:
        """Read what the operation takes from `request`, and let the handler answer."""
        if self.declared.method not in SAFE_METHODS:
            refuse_cross_site(request)
        given: dict[str, object] = {
            **request.path_params,
            "request": request,
            "query": read_query(request, self.query),
        }
        if self.body is not None:
            given["body"] = await read_json(request, self.body, self.declared.max_body_bytes)
        return await self.call(**{name: given[name] for name in self.wants})


def operation(
    method: str,
    path: str,
    *,
    answers: Mapping[int, Any],
    raises: Sequence[type[ShoalError]] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Callable[[Handler], Handler]:
    """Declare a method of a class as an operation; see `Declaration`.

    Its docstring documents the operation. Its parameters say what it takes: `query`, a Struct of
    query parameters; `body`, the type of the JSON body; `request`; all others are of the path.
    """
    declared = Declaration(method, path, answers, tuple(raises), max_body_bytes)

    def declare(handler: Handler) -> Handler:
        vars(handler)["declared"] = declared
        return handler

    return declare


def operations_of(owner: object) -> Iterator[Operation]:
    """The operations that the class of `owner` declares, in the order of their definition."""
    for name, function in vars(type(owner)).items():
        declared = getattr(function, "declared", None)
        if not isinstance(declared, Declaration):
            continue
        call = getattr(owner, name)
        takes = inspect.signature(call, eval_str=True).parameters
        yield Operation(
            declared,
            call,
            query=takes["query"].annotation if "query" in takes else NoQuery,
            body=takes["body"].annotation if "body" in takes else None,
            wants=frozenset(takes),
        )


def routes_of(operations: Sequence[Operation]) -> list[Route]:
    """One route a path, so that a refused method names all the methods the path does take."""
    by_path: dict[str, dict[str, Operation]] = {}
    for each in operations:
        by_path.setdefault(each.declared.path, {})[each.declared.method] = each
    return [
        Route(path, _endpoint(by_method), methods=list(by_method))
        for path, by_method in by_path.items()
    ]


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def _endpoint(by_method: Mapping[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await by_method[method].answer(request)

    return endpoint
