"""Builds the specification that a registration sends, and refuses a wrong one before it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, TypeAlias, TypedDict, TypeVar

import msgspec

from shoal.client.calls import MAX_BATCH
from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import JsonValue, ModelSpec, Placement, VersionPolicy, check_spec
from shoal.domain.serving_checks import check_serving_runtime
from shoal.domain.serving_runtime import ServingRuntime
from shoal.domain.signature import TensorSpec

Item = TypeVar("Item")
CredentialValue: TypeAlias = "str | bool | int | Mapping[str, JsonValue] | None"


class SpecFields(TypedDict, total=False):
    """The fields of ModelSpec beside `name` and `uri`; its docstring says what they mean."""

    format: str | None
    digest: str | None
    credentials: str | None
    trust: Literal["data", "code", "isolated"] | None
    runtime: str | None
    format_version: str | None
    protocol: str | None
    version_policy: VersionPolicy | Mapping[str, object]
    inputs: Sequence[TensorSpec | Mapping[str, object]]
    outputs: Sequence[TensorSpec | Mapping[str, object]]
    options: Mapping[str, JsonValue]
    pin: bool
    priority: int
    idle_ttl_s: float | None
    memory_bytes: int | None
    accelerator_bytes: int | None
    max_concurrency: int | None
    max_batch_rows: int | None
    max_batch_delay_ms: float | None
    optimize: Literal["auto", "off"] | None
    repeatable: bool
    min_copies: int
    max_copies: int | None
    placement: Placement | Mapping[str, object] | None
    labels: Mapping[str, str]


def encoded_specs(models: Iterable[ModelSpec | Mapping[str, object]]) -> Iterator[bytes]:
    """Each as JSON, checked. Raises InvalidSpecification when the turn of a wrong one comes."""
    for model in models:
        if isinstance(model, ModelSpec):
            check_spec(model)
            yield msgspec.json.encode(model)
        else:
            yield msgspec.json.encode(read_spec(model))


def pages(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """As lists of `size`, the last one perhaps shorter. Raises InvalidSpecification for a size that
    no server takes."""
    if not 1 <= size <= MAX_BATCH:
        raise InvalidSpecification(f"page_size is {size}; it must be between 1 and {MAX_BATCH:,}")
    source = iter(items)
    while page := list(islice(source, size)):
        yield page


def spec_of(model: str | ModelSpec, uri: str | None, fields: SpecFields) -> ModelSpec:
    """A checked specification from a whole one or from a name, a URI and fields.

    Raises InvalidSpecification, also when both a whole one and parts are given.
    """
    if isinstance(model, ModelSpec):
        if uri is not None or fields:
            raise InvalidSpecification(
                f"model {model.name!r}: give a ModelSpec alone, or a name, a uri and fields"
            )
        check_spec(model)
        return model
    if uri is None:
        raise InvalidSpecification(f"model {model!r}: there is no uri; say where the artifact lies")
    return read_spec({"name": model, "uri": uri, **fields})


def read_spec(fields: Mapping[str, object]) -> ModelSpec:
    """A checked specification from plain data. Raises InvalidSpecification naming the field."""
    try:
        spec = msgspec.convert(msgspec.to_builtins(dict(fields)), ModelSpec)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidSpecification(f"model {fields.get('name')!r}: {error}") from None
    check_spec(spec)
    return spec


def serving_of(runtime: ServingRuntime | Mapping[str, object]) -> ServingRuntime:
    """A checked declaration of a serving runtime. Raises InvalidSpecification naming the field."""
    if isinstance(runtime, ServingRuntime):
        serving = runtime
    else:
        try:
            serving = msgspec.convert(msgspec.to_builtins(dict(runtime)), ServingRuntime)
        except (msgspec.ValidationError, TypeError) as error:
            raise InvalidSpecification(f"runtime {runtime.get('name')!r}: {error}") from None
    check_serving_runtime(serving)
    return serving
