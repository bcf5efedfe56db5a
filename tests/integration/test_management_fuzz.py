"""The OpenAPI document against the application: whatever it allows is taken, whatever it forbids
is refused, and every answer is as described."""

from __future__ import annotations

from typing import TypeGuard, cast

import hypothesis
import jsonschema  # type: ignore[import-untyped]
import schemathesis
from hypothesis import HealthCheck
from tests.fake_control import FakeControl

from shoal.domain.model import MODEL_NAME, ModelSpec
from shoal.management.api import create_app


def expose(_accept: str) -> tuple[bytes, str]:
    return b"shoal_models 2\n", "text/plain; version=0.0.4; charset=utf-8"


REGISTERED = (
    ModelSpec(name="churn", uri="/models/churn"),
    ModelSpec(name="price", uri="/models/price.onnx"),
)
control = FakeControl()
schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", create_app(control, expose))

SERVING = jsonschema.Draft202012Validator(
    {**schema.raw_schema, "$ref": "#/components/schemas/UnnamedServingRuntime"})


@schema.hook("map_body")  # type: ignore[untyped-decorator]
def as_a_schema_cannot_say(_context: object, body: object) -> object:
    """JSON Schema takes 2.0 for an integer, the API (and its document) do not."""
    match body:
        case float() if body.is_integer():
            return int(body)
        case list():
            return [as_a_schema_cannot_say(_context, part) for part in body]
        case dict():
            parts = {name: as_a_schema_cannot_say(_context, part) for name, part in body.items()}
            least, most = parts.get("min_copies"), parts.get("max_copies")
            if isinstance(least, int) and isinstance(most, int) and most < least:
                del parts["max_copies"]  # which a schema cannot say either
            return parts
    return body


def with_fields_that_go_together(serving: dict[str, object]) -> dict[str, object]:
    """Of a serving runtime that the schema allows; which ones these are is beyond a schema."""
    if not SERVING.is_valid(serving):
        return serving
    formats = {(each["name"], each.get("version")): each
               for each in cast("list[dict[str, str]]", serving["formats"])}
    apart = ("address", "management_address", "models_dir", "serves", "environment")
    kept = {name: value for name, value in serving.items() if name not in apart}
    return {**kept, "formats": list(formats.values()), "command": ["serve"]}


@schema.hook("map_case")  # type: ignore[untyped-decorator]
def with_names_that_exist(_context: object, case: schemathesis.Case) -> schemathesis.Case:
    """Valid names are mostly those of registered models, and the same in the path and the body;
    both are beyond what a schema can say."""
    if fits(name := (case.path_parameters or {}).get("name")) and len(name) % 3:
        case.path_parameters["name"] = REGISTERED[len(name) % 3 - 1].name
    if case.method == "PUT" and isinstance(case.body, dict) and fits(case.body.get("name")):
        del case.body["name"]
    if isinstance(case.body, dict) and "formats" in case.body:
        case.body = with_fields_that_go_together(case.body)
    return case


def fits(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and MODEL_NAME.fullmatch(name) is not None


@schema.parametrize()  # type: ignore[untyped-decorator]
@hypothesis.settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_the_api_is_as_described(case: schemathesis.Case) -> None:
    for spec in REGISTERED:
        control.declare(spec)
    case.call_and_validate()
