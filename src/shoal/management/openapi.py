"""Describes the API as an OpenAPI 3.1 document, made from the operations and their types.

Nothing is written down twice: parameters, bodies and answers come from the handlers' types, texts
from docstrings, the status of an error from the table in `shoal.codecs.errors`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.responses import Response

from shoal import __version__
from shoal.codecs.errors import http_status
from shoal.domain import errors
from shoal.domain.errors import (
    BodyTooLarge,
    InvalidRequest,
    InvalidSpecification,
    NotAllowed,
    ShoalError,
)
from shoal.domain.model import DIGEST, MODEL_NAME, ModelSpec, VersionPolicy
from shoal.domain.serving_runtime import PROTOCOLS, ServingRuntime, SupportedFormat
from shoal.domain.signature import DATATYPES, TensorSpec
from shoal.management.errors import REQUEST_ID, ErrorView
from shoal.management.operation import SAFE_METHODS, Media, Operation, json_response, operation
from shoal.management.reading import Schema, parameters_of
from shoal.management.requests import UnnamedModelSpec, UnnamedServingRuntime

_ABOUT: Final = """\
Operate a Shoal instance: register models, load and unload them, and see what it does and why.

Every response carries `X-Request-Id`: the request's own, when that is 1 to 128 visible ASCII
characters, or a new one; log lines carry it too. Every failure is an `ErrorView`. Paths that take
GET take HEAD as well. Unknown query parameters and unknown fields are refused, so that a
misspelling never passes for a success; whole numbers are written without a fraction. Fields are
only ever added to answers."""

_NAME: Final[Schema] = {"type": "string", "pattern": f"^{MODEL_NAME.pattern}$"}
_IN_PATHS: Final[dict[str, Schema]] = {
    "name": _NAME, "id": {"type": "string", "minLength": 1, "maxLength": 254},
}
_DATATYPE: Final[Schema] = {"enum": list(DATATYPES)}
_EXTENT: Final[Schema] = {"type": "integer", "anyOf": [{"const": -1}, {"minimum": 1}]}
_MAYBE_NAME: Final[Schema] = {"pattern": f"^({MODEL_NAME.pattern})?$"}
_WORD: Final[Schema] = {"type": "string", "pattern": "^[^\\x00]*$"}
_PORT: Final = (
    "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])")
_ADDRESS: Final[Schema] = {"pattern": rf"^(unix:/[^\x00]+|[^ \t\r\n/@\x00]+:{_PORT})$"}
# What `check_spec` and `check_serving_runtime` ask of fields beyond their types.
_BOUNDS: Final[dict[type, dict[str, Schema]]] = {
    ModelSpec: {
        "name": _NAME,
        "uri": {"minLength": 1},
        "digest": {"pattern": f"^{DIGEST.pattern}$"},
        "runtime": _NAME,
        "format_version": {"minLength": 1},
        "protocol": {"enum": list(PROTOCOLS)},
        "idle_ttl_s": {"minimum": 0},
        "memory_bytes": {"minimum": 1},
        "accelerator_bytes": {"minimum": 1},
        "max_concurrency": {"minimum": 1},
        "max_batch_rows": {"minimum": 1},
        "max_batch_delay_ms": {"minimum": 0},
        "min_copies": {"minimum": 0},
        "max_copies": {"minimum": 1},
    },
    UnnamedModelSpec: {"name": _MAYBE_NAME},
    SupportedFormat: {"name": _NAME, "version": _NAME, "priority": {"minimum": 1}},
    ServingRuntime: {
        "formats": {"minItems": 1},
        "protocols": {
            "minItems": 1, "uniqueItems": True,
            "items": {"type": "string", "enum": list(PROTOCOLS)},
        },
        "command": {"items": _WORD},
        "environment": {
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": _WORD,
        },
        "address": _ADDRESS,
        "management_address": _ADDRESS,
        "models_dir": {"pattern": "^/[^\\x00]*$"},
        "capacity_bytes": {"minimum": 1},
        "max_loading": {"minimum": 1},
        "start_timeout_s": {"exclusiveMinimum": 0},
        "load_timeout_s": {"exclusiveMinimum": 0},
        "idle_s": {"exclusiveMinimum": 0},
    },
    UnnamedServingRuntime: {"name": _MAYBE_NAME},
    VersionPolicy: {"latest": {"minimum": 1}},
    TensorSpec: {"datatype": _DATATYPE, "shape": {"items": _EXTENT}},
}
_ONE_POLICY: Final[Schema] = {
    "not": {
        "required": ["latest", "specific"],
        "properties": {"latest": {"type": "integer"}, "specific": {"type": "array"}},
    }
}
_HEADERS: Final[Schema] = {
    REQUEST_ID: {
        "description": "The id of the request.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds after which asking again makes sense.",
        "schema": {"type": "integer", "minimum": 0},
    },
}


class Description:
    """Serves the document. `operations` are set once all are known, this one included."""

    def __init__(self) -> None:
        self.operations: Sequence[Operation] = ()
        self._document: Schema | None = None

    @operation("GET", "/api/v1/openapi.json", answers={200: dict[str, Any]})
    async def openapi(self) -> Response:
        """This document."""
        if self._document is None:
            self._document = describe(self.operations)
        return json_response(self._document)


def describe(operations: Sequence[Operation]) -> Schema:
    """The OpenAPI 3.1 document of `operations`."""
    types = _types_of(operations)
    references, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    schemas = dict(zip(map(_key, types), references, strict=True))
    for kind in _structs_in(components, types):
        _refine(components[kind.__name__], kind)
    paths: dict[str, Schema] = {}
    for each in operations:
        paths.setdefault(each.declared.path, {})[each.declared.method.lower()] = _operation(
            each, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shoal management API", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": components, "headers": _HEADERS},
    }


# --- operations ---------------------------------------------------------------------------------


def _operation(each: Operation, schemas: dict[str, Schema]) -> Schema:
    summary, _, text = each.doc.partition("\n")
    described: Schema = {
        "operationId": each.name,
        "summary": summary.rstrip("."),
        "description": text.strip() or summary,
        "tags": [type(each.call.__self__).__name__.lower()],  # type: ignore[attr-defined]
        "parameters": [*_path_parameters(each), *_query_parameters(each)],
        "responses": _responses(each, schemas),
    }
    if each.body is not None:
        described["requestBody"] = {
            "required": True,
            "description": f"At most {each.declared.max_body_bytes} bytes.",
            "content": {"application/json": {"schema": schemas[_key(each.body)]}},
        }
    return described


def _path_parameters(each: Operation) -> Iterator[Schema]:
    for name in re.findall(r"{(\w+)}", each.declared.path):
        yield {"name": name, "in": "path", "required": True, "schema": _IN_PATHS[name]}


def _query_parameters(each: Operation) -> Iterator[Schema]:
    docs = _field_docs(each.query)
    for name, schema in parameters_of(each.query).items():
        yield {"name": name, "in": "query", "description": docs[name], "schema": schema}


def _responses(each: Operation, schemas: dict[str, Schema]) -> Schema:
    responses: Schema = {}
    for status, content in each.declared.answers.items():
        answer: Schema = {"description": HTTPStatus(status).phrase, "headers": _headers()}
        if isinstance(content, Media):
            answer["content"] = {media: {"schema": {"type": "string"}} for media in content.types}
        elif content is not None:
            answer["content"] = {"application/json": {"schema": schemas[_key(content)]}}
        responses[str(status)] = answer
    for status, codes in sorted(_codes_by_status(each).items()):
        responses.setdefault(
            str(status),
            {
                "description": f"{HTTPStatus(status).phrase}: {', '.join(codes)}",
                "headers": _headers(*(["Retry-After"] if status in (429, 503) else [])),
                "content": {"application/json": {"schema": schemas[_key(ErrorView)]}},
            },
        )
    return responses


def _headers(*more: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (REQUEST_ID, *more)}


def _codes_by_status(each: Operation) -> dict[int, list[str]]:
    kinds: list[type[ShoalError]] = [InvalidRequest]
    if each.body is not None:
        kinds += [InvalidSpecification, BodyTooLarge]
    if each.declared.method not in SAFE_METHODS:
        kinds.append(NotAllowed)
    for raised in each.declared.raises:
        kinds += [kind for kind in errors.family(raised) if kind.__module__ == errors.__name__]
    kinds.append(ShoalError)
    by_status: dict[int, list[str]] = {}
    for kind in dict.fromkeys(kinds):
        by_status.setdefault(http_status(kind), []).append(kind.code)
    return by_status


# --- schemas ------------------------------------------------------------------------------------


def _types_of(operations: Sequence[Operation]) -> list[Any]:
    """Every type that is a body or an answer, once."""
    bodies = [each.body for each in operations]
    answers = [content for each in operations for content in each.declared.answers.values()]
    wanted = [
        kind
        for kind in (*bodies, *answers, ErrorView)
        if kind is not None and not isinstance(kind, Media)
    ]
    return list({_key(kind): kind for kind in wanted}.values())


def _key(kind: Any) -> str:
    return repr(kind)


def _structs_in(components: dict[str, Schema], types: Sequence[Any]) -> Iterator[type]:
    """The Struct classes behind the components."""
    seen: set[type] = set()
    waiting = list(msgspec.inspect.multi_type_info(types))
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            waiting += [field.type for field in info.fields]
            assert info.cls.__name__ in components
            yield info.cls
        for part in ("types", "item_types"):
            waiting += getattr(info, part, ())
        for part in ("type", "item_type", "value_type"):
            inner = getattr(info, part, None)
            if isinstance(inner, msgspec.inspect.Type):
                waiting.append(inner)


def _refine(schema: Schema, kind: type) -> None:
    """Add to the schema of `kind` what its docstring says and what its types cannot."""
    schema["description"] = inspect.getdoc(kind) or ""
    docs: dict[str, str] = {}
    bounds: dict[str, Schema] = {}
    for base in reversed(kind.__mro__):
        docs |= _field_docs(base)
        bounds |= _BOUNDS.get(base, {})
    for name, field in schema.get("properties", {}).items():
        if name in docs:
            field["description"] = docs[name]
        for choice in field.get("anyOf", [field]):
            if choice.get("type") != "null":
                choice.update(bounds.get(name, {}))
    if kind is VersionPolicy:
        schema.update(_ONE_POLICY)


def _field_docs(kind: type) -> dict[str, str]:
    """The texts of a docstring's lines `field, field: text`, with their indented continuations."""
    found: dict[str, str] = {}
    doc = inspect.getdoc(kind) or ""
    for names, text in re.findall(r"^([a-z_, ]+): (.+(?:\n +.+)*)", doc, re.MULTILINE):
        for name in names.split(", "):
            found[name] = " ".join(text.split())
    return found
