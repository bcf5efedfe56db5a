"""Reads requests strictly: query parameters and JSON bodies to typed values, or an error that says
which part is wrong and what would be right.

Knows nothing of what the values are for.
"""

from __future__ import annotations

import codecs
import functools
import re
from typing import (
    Annotated,
    Any,
    Final,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from shoal.codecs.json_errors import DECODING_ERRORS, as_refusal, describe
from shoal.domain.errors import (
    BodyTooLarge,
    InvalidRequest,
    InvalidSpecification,
    NotAllowed,
)

Schema: TypeAlias = dict[str, Any]  # a JSON Schema, open by nature
Query = TypeVar("Query", bound=msgspec.Struct)

_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
# JSON is UTF-8 (RFC 8259, 8.1); the others are what editors and shells are known to write instead.
_CHARSETS: Final = frozenset({"utf-8", "ascii", "iso8859-1", "utf-16", "utf-16-le", "utf-16-be"})


@functools.cache
def parameters_of(query: type[msgspec.Struct]) -> dict[str, Schema]:
    """The schema of each parameter of a query, without references and without the null that
    stands for a parameter left out."""
    _, components = msgspec.json.schema_components([query], ref_template="{name}")
    properties = components[query.__name__]["properties"]
    return {name: _plain(schema, components) for name, schema in properties.items()}


def read_query(request: Request, kind: type[Query]) -> Query:
    """The query string as a `kind`. Raises InvalidRequest naming the parameter, what it was, and
    what it may be."""
    parameters, types = parameters_of(kind), _types(kind)
    values: dict[str, object] = {}
    for name, text in _pairs(request):
        if name not in parameters:
            known = f"known are {', '.join(parameters)}" if parameters else "this path takes none"
            raise InvalidRequest(f"query parameter {name!r} is unknown; {known}")
        if name in values:
            raise InvalidRequest(f"query parameter {name!r} is given twice; give one value")
        try:
            values[name] = msgspec.convert(_literal(text, parameters[name]), types[name])
        except (msgspec.ValidationError, ValueError):
            raise InvalidRequest(
                f"query parameter {name!r} is {text!r}; it must be {_expected(parameters[name])}"
            ) from None
    return kind(**values)


async def read_json(request: Request, kind: Any, limit_bytes: int) -> Any:
    """The body as the type `kind`. The content type is not asked for: JSON is what parses as it.

    Raises BodyTooLarge, InvalidRequest when the body is not JSON (with the position), and
    InvalidSpecification when it is JSON of another shape (with the path of the field).
    """
    body = _as_utf8(await _read_body(request, limit_bytes), request)
    if not body.strip():
        raise InvalidRequest(f"the body is empty; send a JSON {_title(kind)}")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        where, what = describe(error)
        raise InvalidSpecification(
            f"the body is no {_title(kind)}: {where + ': ' if where else ''}{what}; "
            "GET /api/v1/openapi.json describes every field"
        ) from None
    except DECODING_ERRORS as error:
        raise as_refusal(error, body) from None


def refuse_cross_site(request: Request) -> None:
    """Raise NotAllowed when a browser sends this on behalf of a page from elsewhere.

    Any page may make a browser POST to any address, 127.0.0.1 included; it cannot read the answer,
    but the deed is done. Browsers say where a request comes from (Fetch Metadata, `Sec-Fetch-Site`;
    older ones only `Origin`), other clients send neither.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if foreign:
        raise NotAllowed(
            f"a page of another site ({origin or site}) may not change this server; "
            "use its own page, the command line or the SDK"
        )


# --- queries ------------------------------------------------------------------------------------


def _pairs(request: Request) -> list[tuple[str, str]]:
    query = request.scope["query_string"].decode("latin-1")
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except UnicodeDecodeError:
        raise InvalidRequest("the query string is not UTF-8; percent-encode it as UTF-8") from None
    except ValueError:
        raise InvalidRequest("the query string has more than 100 parameters") from None


def _literal(text: str, schema: Schema) -> object:
    """The value that `text` spells in a URL; ValueError when it spells none."""
    if schema.get("type") == "integer":
        if not _WHOLE_NUMBER.fullmatch(text):
            raise ValueError(text)
        return int(text)
    if schema.get("type") == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return text


def _expected(schema: Schema) -> str:
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "integer":
        return f"a whole number from {schema['minimum']} to {schema['maximum']}"
    return f"text of {schema.get('minLength', 0)} to {schema['maxLength']} characters"


@functools.cache
def _types(query: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(query, include_extras=True)


def _plain(schema: Schema, components: dict[str, Schema]) -> Schema:
    [choice] = [
        choice for choice in schema.get("anyOf", [schema]) if choice.get("type") != "null"
    ]
    plain = {**schema, **choice, **components.get(choice.get("$ref", ""), {})}
    plain = {key: value for key, value in plain.items() if key not in ("anyOf", "$ref", "title")}
    if plain.get("default", 0) is None:
        del plain["default"]
    return plain


# --- bodies -------------------------------------------------------------------------------------


async def _read_body(request: Request, limit_bytes: int) -> bytes:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidRequest("the body is compressed; send it without Content-Encoding")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    return bytes(body)


def _as_utf8(body: bytes, request: Request) -> bytes:
    """`body` in UTF-8 and without a byte order mark, whatever charset the content type names."""
    charset = _charset(request.headers.get("content-type", ""))
    try:
        return body.decode(charset).removeprefix("\ufeff").encode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the body is not {charset} text, at byte {error.start}; send JSON in UTF-8"
        ) from None


def _charset(content_type: str) -> str:
    match = re.search(r';\s*charset\s*=\s*"?([^\s";]+)', content_type, re.IGNORECASE)
    if match is None:
        return "utf-8"
    try:
        name = codecs.lookup(match[1]).name
    except LookupError:
        name = ""
    if name not in _CHARSETS:
        raise InvalidRequest(f"the charset {match[1]!r} is not supported; send JSON in UTF-8")
    return name


def _title(kind: Any) -> str:
    """`ModelSpec` or `array of ModelSpec`."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is list:
        return f"array of {get_args(kind)[0].__name__}"
    if get_origin(kind) is dict:
        return "object"
    return str(kind.__name__)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body is larger than {limit_bytes} bytes, the most this path takes; send less at once"
    )
