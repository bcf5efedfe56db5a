"""The way of a request through an instance, without a server around it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from inspect import isawaitable
from time import perf_counter
from typing import Any, cast

import pytest

from shoal.codecs.message import InferRequest, InferResponse
from shoal.codecs.peer import HTTP, PeerReply
from shoal.dataplane import inference
from shoal.dataplane.inference import Inference
from shoal.domain.errors import DeadlineExceeded, ModelNotFound, PathNotFound, ShoalError
from shoal.domain.events import Miss
from shoal.domain.model import JsonValue, ModelRecord, ModelSpec, make_revision
from shoal.domain.signature import Signature
from shoal.node.activity import Activity
from shoal.node.clock import SystemClock
from shoal.node.elsewhere import Elsewhere
from shoal.node.instance import Instance
from shoal.node.journal import Journal
from shoal.node.live import LiveCopy, Running
from shoal.observability.metrics import Metrics
from shoal.settings import Settings


class Echo:
    platform = "fake"
    max_concurrency = 1
    may_wait = False
    signature = Signature((), ())

    def predict(self, inputs: Any, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Any:
        if parameters.get("fail"):
            raise ValueError("no")
        return inputs

    def size_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        pass


@dataclass
class FakeInstance:
    """What `Inference` needs of an instance. acquired: what `acquire` answers with, in order."""

    settings: Settings = field(default_factory=Settings)
    activity: Activity = field(default_factory=Activity)
    metrics: Metrics = field(default_factory=lambda: Metrics(True, 10))
    journal: Journal = field(default_factory=lambda: Journal(SystemClock()))
    replica: dict[str, ModelRecord] = field(default_factory=dict)
    live: dict[str, LiveCopy] = field(default_factory=dict)
    found: LiveCopy | None = None
    acquired: list[LiveCopy] = field(default_factory=list)

    def find(self, name: str, version: int | None) -> LiveCopy | None:
        return self.found

    def elsewhere(self, name: str, version: int | None) -> Elsewhere | None:
        return None

    async def acquire(self, name: str, version: int | None, timeout_s: float, *, attempt: int = 0,
                      miss: Miss | None = None) -> LiveCopy:
        if not self.acquired:
            raise ModelNotFound(f"model {name!r} is not registered")
        copy = self.acquired.pop(0)
        copy.retain()
        return copy


@dataclass
class FakeCall:
    """Answers are pairs: what came out, an error or a response."""

    name: str = "m"
    protocol: str = "v2"
    version: int | None = None
    size_bytes: int = 10
    request_id: str = "7"
    revision: str = ""
    origin: str = ""
    timeout: float | ShoalError = 60.0
    request: InferRequest = field(default_factory=lambda: InferRequest([]))
    started: float = field(default_factory=perf_counter)

    def decode(self, signature: Signature) -> InferRequest:
        return self.request

    def encode(self, response: InferResponse, request: InferRequest) -> object:
        return response

    def refuse(self, error: ShoalError) -> object:
        return error

    def timeout_s(self, default_s: float) -> float:
        if isinstance(self.timeout, ShoalError):
            raise self.timeout
        return self.timeout

    def pack(self) -> tuple[int, bytes, bytes]:
        return HTTP, b"head", b"body"

    def unpack(self, reply: PeerReply) -> tuple[object, int]:
        return reply, 200


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def record(name: str, *versions: int) -> ModelRecord:
    spec = ModelSpec(name=name, uri="/m")
    return ModelRecord(name=name, spec=spec, revisions=tuple(
        make_revision(spec, version=version, uri="/m", format="fake", artifact_digest="",
                      files_bytes=0)
        for version in versions
    ))


def copy_of(pool: ThreadPoolExecutor, version: int = 1) -> LiveCopy:
    (revision,) = record("m", version).revisions
    return LiveCopy(revision, Echo(), Running(pool, 2, inline_limit_s=60.0, max_queued=10))


def made(instance: FakeInstance) -> Inference:
    return Inference(cast(Instance, instance))


async def answer(way: Inference, call: FakeCall) -> object:
    found = way.infer(call)
    return await found if isawaitable(found) else found


async def test_the_first_call_runs_on_a_thread_and_the_next_at_once(
    pool: ThreadPoolExecutor
) -> None:
    instance = FakeInstance(found=copy_of(pool))
    way = made(instance)
    first = way.infer(FakeCall())
    assert isawaitable(first)
    assert isinstance(await first, InferResponse)
    assert isinstance(way.infer(FakeCall()), InferResponse)
    assert (instance.activity.requests, instance.activity.hits) == (2, 2)
    assert instance.metrics.model("m").requests == {("v2", "200"): 2}


async def test_a_call_cancelled_before_its_first_step_holds_nothing(
    pool: ThreadPoolExecutor
) -> None:
    """Its copy could never leave memory."""
    copy = copy_of(pool)
    coming = made(FakeInstance(found=copy)).infer(FakeCall())
    task = asyncio.ensure_future(cast("Any", coming))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert copy.in_flight == 0


async def test_a_copy_that_left_before_the_first_step_is_got_again(
    pool: ThreadPoolExecutor
) -> None:
    old, new = copy_of(pool, 1), copy_of(pool, 2)
    instance = FakeInstance(found=old, acquired=[new])
    coming = made(instance).infer(FakeCall())
    instance.found = None
    response = await cast("Any", coming)
    assert response.model_version == "2"
    assert (old.in_flight, new.in_flight) == (0, 0)


async def test_a_cold_request_releases_its_copy_whatever_happens(pool: ThreadPoolExecutor) -> None:
    copies = [copy_of(pool) for _ in range(3)]
    instance = FakeInstance(acquired=copies.copy())
    way = made(instance)
    assert isinstance(await answer(way, FakeCall()), InferResponse)
    failing = FakeCall(request=InferRequest([], parameters={"fail": True}))
    assert "ValueError: no" in str(await answer(way, failing))
    unknown = FakeCall(request=InferRequest([], parameters={"content_type": "png"}))
    assert "unknown content_type 'png'" in str(await answer(way, unknown))
    assert [copy.in_flight for copy in copies] == [0, 0, 0]
    assert instance.activity.cold == 3


async def test_a_request_whose_time_is_over_is_refused_before_a_load(
    pool: ThreadPoolExecutor
) -> None:
    instance = FakeInstance(acquired=[copy_of(pool)])
    late = FakeCall(timeout=DeadlineExceeded("too late"))
    assert str(await answer(made(instance), late)) == "too late"
    assert len(instance.acquired) == 1


async def test_requests_for_unknown_models_share_their_metrics() -> None:
    instance = FakeInstance()
    await answer(made(instance), FakeCall(name="stranger"))
    assert instance.metrics.no_model.requests == {("v2", "404"): 1}
    assert instance.activity.failed == 1


def test_only_protocols_count_as_unreached() -> None:
    instance = FakeInstance()
    for protocol in ("v1", "v2", "fa", ""):
        made(instance).count_unreached(protocol, PathNotFound("no"))
    assert instance.metrics.no_model.requests == {("v1", "404"): 1, ("v2", "404"): 1}


def test_statistics_are_told_of_what_is_loaded_or_was_asked(
    pool: ThreadPoolExecutor
) -> None:
    instance = FakeInstance(replica={"a": record("a", 1, 2), "m": record("m", 1)})
    instance.live = {"m@1": copy_of(pool)}
    way = made(instance)
    for name, version in (("a", 3), ("a", 2), ("gone", 1)):
        way.statistics(name, version).successes += 1
    assert sorted(way.counted(None)) == [("a", 2), ("a", 3), ("gone", 1), ("m", 1)]
    assert sorted(way.counted("a")) == [("a", 2), ("a", 3)]


def test_statistics_of_models_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "KEPT_STATISTICS", 5)
    instance = FakeInstance(replica={"kept": record("kept", 1)})
    way = made(instance)
    way.statistics("kept", 1).successes += 1
    for number in range(20):
        way.statistics(f"gone{number}", 1)
    assert way.statistics("kept", 1).successes == 1
    assert len(way._statistics) < 12
