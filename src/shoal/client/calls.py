"""What can be asked of a server: for each question its request and the reading of its answer.

Sans-IO, and the only place that knows the paths of the APIs. Inference itself, which is more than a
question, is in `inference`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

import msgspec

from shoal.client.endpoints import Side, segment, with_query
from shoal.client.errors import Answer, UnexpectedAnswer
from shoal.client.retry import Conversation, Exchange
from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import JsonValue, ModelSpec
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
    State,
    Status,
    Story,
)

T = TypeVar("T")

API: Final = "/api/v1"  # of management
MAX_BATCH: Final = 5_000  # models of one call that registers or unregisters many
_JSON: Final = {"content-type": "application/json"}
_NOT_READY: Final = frozenset({503})


class ServerMetadata(msgspec.Struct, frozen=True):
    """Open Inference Protocol, "Server Metadata"."""

    name: str
    version: str
    extensions: list[str] = []


class TensorMetadata(msgspec.Struct, frozen=True):
    """In `shape`, -1 stands for any extent."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    """Open Inference Protocol, "Model Metadata"."""

    name: str
    versions: list[str] = []
    platform: str = ""
    inputs: list[TensorMetadata] = []
    outputs: list[TensorMetadata] = []


@dataclass(frozen=True, slots=True)
class ModelQuery:
    """Which models, and how many a page (`limit`). contains: part of the name. label: `key=value`
    or `key`. after: the name the first page begins behind."""

    state: State | str | None = None
    contains: str | None = None
    format: str | None = None
    label: str | None = None
    after: str | None = None
    limit: int = 100

    def following(self, page: ModelPage) -> ModelQuery | None:
        """The query for the page behind `page`; None when that was the last."""
        return None if page.next is None else replace(self, after=page.next)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A question: the request, and what its answer says."""

    exchange: Exchange
    parse: Callable[[Answer], T]


def asked(call: Call[T]) -> Conversation[T]:
    """The conversation that one question is."""
    answer = yield call.exchange
    return call.parse(answer)


def asked_raw(call: Call[T]) -> Conversation[bytes]:
    """The same, with the answer's body as the server wrote it."""
    answer = yield call.exchange
    return answer.body


# --- inference side -----------------------------------------------------------------------------


def server_live() -> Call[bool]:
    return _is_ready("/v2/health/live")


def server_ready() -> Call[bool]:
    return _is_ready("/v2/health/ready")


def server_metadata() -> Call[ServerMetadata]:
    return Call(Exchange("GET", Side.INFERENCE, "/v2"), _reader(ServerMetadata))


def model_ready(model: str, version: int | str | None = None) -> Call[bool]:
    return _is_ready(f"{model_path(model, version)}/ready")


def model_metadata(model: str, version: int | str | None = None) -> Call[ModelMetadata]:
    path = model_path(model, version)
    return Call(Exchange("GET", Side.INFERENCE, path), _reader(ModelMetadata))


def infer_body(
    model: str, body: bytes, version: int | str | None = None, *, repeatable: bool = True
) -> Call[JsonValue]:
    """An inference whose V2 JSON body is written already."""
    path = f"{model_path(model, version)}/infer"
    exchange = Exchange("POST", Side.INFERENCE, path, body, dict(_JSON), repeatable)
    return Call(exchange, read_value)


def predict_body(model: str, body: bytes, *, repeatable: bool = True) -> Call[JsonValue]:
    """A V1 prediction whose JSON body is written already."""
    path = f"/v1/models/{segment(model)}:predict"
    exchange = Exchange("POST", Side.INFERENCE, path, body, dict(_JSON), repeatable)
    return Call(exchange, read_value)


def model_path(model: str, version: int | str | None = None) -> str:
    path = f"/v2/models/{segment(model)}"
    return path if version is None else f"{path}/versions/{segment(str(version))}"


# --- management side ----------------------------------------------------------------------------


def register(spec: ModelSpec, *, create: bool = False, read: bool = True) -> Call[ModelView]:
    """`create`: Conflict when the name is taken; otherwise what it stood for is replaced. `read`:
    whether the server looks at the files now."""
    body = msgspec.json.encode(spec)
    if create:  # a second time the name would be taken, by the first
        path = with_query(f"{API}/models", create=True, read=_unless_true(read))
        exchange = Exchange("POST", Side.MANAGEMENT, path, body, dict(_JSON), repeatable=False)
    else:
        path = with_query(_model(spec.name), read=_unless_true(read))
        exchange = Exchange("PUT", Side.MANAGEMENT, path, body, dict(_JSON))
    return Call(exchange, _reader(ModelView))


def register_batch(specs: Sequence[bytes], *, read: bool = True) -> Call[BatchOutcome]:
    """specs: each one ModelSpec as JSON, MAX_BATCH at most."""
    path = with_query(f"{API}/models:batch", read=_unless_true(read))
    body = b"[" + b",".join(specs) + b"]"
    exchange = Exchange("POST", Side.MANAGEMENT, path, body, dict(_JSON))
    return Call(exchange, _reader(BatchOutcome))


def unregister_batch(names: Sequence[str]) -> Call[BatchOutcome]:
    """MAX_BATCH names at most."""
    body = msgspec.json.encode(names)
    exchange = Exchange(
        "POST", Side.MANAGEMENT, f"{API}/models:unregister", body, dict(_JSON)
    )
    return Call(exchange, _reader(BatchOutcome))


def unregister(name: str) -> Call[None]:
    # Not repeatable: the second time the name would be unknown.
    exchange = Exchange("DELETE", Side.MANAGEMENT, _model(name), repeatable=False)
    return Call(exchange, _nothing)


def models(query: ModelQuery) -> Call[ModelPage]:
    """One page, beginning behind `query.after`."""
    path = with_query(
        f"{API}/models",
        after=query.after,
        limit=query.limit,
        state=None if query.state is None else str(query.state),
        contains=query.contains,
        format=query.format,
        label=query.label,
    )
    return Call(Exchange("GET", Side.MANAGEMENT, path), _reader(ModelPage))


def model(name: str) -> Call[ModelView]:
    return Call(Exchange("GET", Side.MANAGEMENT, _model(name)), _reader(ModelView))


def explain(name: str) -> Call[Story]:
    path = f"{_model(name)}/explain"
    return Call(Exchange("GET", Side.MANAGEMENT, path), _reader(Story))


def load(name: str, version: int | None = None, *, wait: bool = True) -> Call[Outcome]:
    return _command(name, "load", version, wait)


def unload(name: str, version: int | None = None, *, wait: bool = True) -> Call[Outcome]:
    return _command(name, "unload", version, wait)


def events(
    after: int = 0, limit: int = 100, model: str | None = None, instance: str | None = None
) -> Call[EventPage]:
    path = with_query(
        f"{API}/events", after=after, limit=limit, model=model, instance=instance)
    return Call(Exchange("GET", Side.MANAGEMENT, path), _reader(EventPage))


def instances() -> Call[list[InstanceView]]:
    return Call(Exchange("GET", Side.MANAGEMENT, f"{API}/instances"), _reader(list[InstanceView]))


def drain(
    instance: str, *, timeout_s: int = 30, undo: bool = False, stop: bool = False
) -> Call[Drained]:
    path = with_query(
        f"{API}/instances/{segment(instance)}/drain", timeout_s=timeout_s,
        undo=undo or None, stop=stop or None)
    return Call(Exchange("POST", Side.MANAGEMENT, path), _reader(Drained))


def status() -> Call[Status]:
    return Call(Exchange("GET", Side.MANAGEMENT, f"{API}/status"), _reader(Status))


def settings() -> Call[list[SettingView]]:
    return Call(Exchange("GET", Side.MANAGEMENT, f"{API}/settings"), _reader(list[SettingView]))


def credentials() -> Call[CredentialsList]:
    return Call(Exchange("GET", Side.MANAGEMENT, f"{API}/credentials"), _reader(CredentialsList))


def credentials_of(name: str) -> Call[CredentialsView]:
    return Call(Exchange("GET", Side.MANAGEMENT, _credentials(name)), _reader(CredentialsView))


def set_credentials(name: str, entry: Mapping[str, object]) -> Call[CredentialsView]:
    """entry: as in a `storage-config`."""
    try:
        body = msgspec.json.encode(entry)
    except TypeError:  # without its text, which could show a value
        raise InvalidSpecification(
            f"credentials {name!r}: a field is neither a text, a number, true or false, nor an "
            "object of such") from None
    exchange = Exchange("PUT", Side.MANAGEMENT, _credentials(name), body, dict(_JSON))
    return Call(exchange, _reader(CredentialsView))


def delete_credentials(name: str) -> Call[CredentialsDeleted]:
    # Not repeatable: the second time the name would be unknown.
    exchange = Exchange("DELETE", Side.MANAGEMENT, _credentials(name), repeatable=False)
    return Call(exchange, _reader(CredentialsDeleted))


def runtimes() -> Call[RuntimeList]:
    return Call(Exchange("GET", Side.MANAGEMENT, f"{API}/runtimes"), _reader(RuntimeList))


def runtime(name: str) -> Call[RuntimeView]:
    return Call(Exchange("GET", Side.MANAGEMENT, _runtime(name)), _reader(RuntimeView))


def declare_runtime(serving: ServingRuntime) -> Call[RuntimeView]:
    body = msgspec.json.encode(serving)
    exchange = Exchange("PUT", Side.MANAGEMENT, _runtime(serving.name), body, dict(_JSON))
    return Call(exchange, _reader(RuntimeView))


def enable_runtime(name: str, *, enabled: bool) -> Call[RuntimeView]:
    path = f"{_runtime(name)}/{'enable' if enabled else 'disable'}"
    return Call(Exchange("POST", Side.MANAGEMENT, path), _reader(RuntimeView))


def delete_runtime(name: str, *, force: bool = False) -> Call[RuntimeDeleted]:
    # Not repeatable: the second time the name would be unknown.
    path = with_query(_runtime(name), force=force or None)
    exchange = Exchange("DELETE", Side.MANAGEMENT, path, repeatable=False)
    return Call(exchange, _reader(RuntimeDeleted))


# --- how they are written and read --------------------------------------------------------------


def _model(name: str) -> str:
    return f"{API}/models/{segment(name)}"


def _credentials(name: str) -> str:
    return f"{API}/credentials/{segment(name)}"


def _runtime(name: str) -> str:
    return f"{API}/runtimes/{segment(name)}"


def _unless_true(flag: bool) -> bool | None:
    """Older servers do not know the parameter, and need not."""
    return None if flag else False


def _command(name: str, verb: str, version: int | None, wait: bool) -> Call[Outcome]:
    path = with_query(f"{_model(name)}/{verb}", version=version, wait=wait)
    return Call(Exchange("POST", Side.MANAGEMENT, path), _reader(Outcome))


def _is_ready(path: str) -> Call[bool]:
    exchange = Exchange("GET", Side.INFERENCE, path, accepts=_NOT_READY)
    return Call(exchange, lambda answer: answer.status < 300)


def _reader(kind: type[T]) -> Callable[[Answer], T]:
    return lambda answer: read_json(answer, kind)


def _nothing(answer: Answer) -> None:
    """The status said it all."""


def read_value(answer: Answer) -> JsonValue:
    """The body as whatever JSON it is; raises UnexpectedAnswer when it is none."""
    value: JsonValue = read_json(answer, object)  # type: ignore[assignment]
    return value


def read_json(answer: Answer, kind: type[T]) -> T:
    """The body as a `kind`; raises UnexpectedAnswer when it is something else."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(
            f"the answer of {answer.url or 'the server'} cannot be read: {error}; "
            "is that address a Shoal server, and of this client's version?"
        ) from None
