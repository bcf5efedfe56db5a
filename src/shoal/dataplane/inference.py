"""Runs inferences, whatever protocol they came by: find the copy, check, predict, count.

A request for a ready copy whose calls are short is answered without a task or a thread, and so is
one sent on to an instance that is known to have such a copy; all others take the asynchronous way.
Must not know HTTP or gRPC: a `Call` reads and writes their bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar, cast

from shoal.codecs.errors import http_status
from shoal.codecs.message import InferRequest, InferResponse
from shoal.dataplane.peer.forwarding import Answer, Asked, Forwarding, Links, too_late
from shoal.dataplane.statistics import Statistics
from shoal.dataplane.validation import RequestCheck, make_response
from shoal.domain.errors import ModelFailed, ShoalError, Unavailable
from shoal.domain.events import Miss
from shoal.domain.signature import Signature
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy, Prediction
from shoal.observability.logs import get_logger
from shoal.observability.metrics import ModelMetrics

if TYPE_CHECKING:
    from shoal.ports import Arrays

    # A request, its tensors as the model takes them, and the outputs that are wanted.
    _Decoded: TypeAlias = tuple[InferRequest, Arrays, tuple[str, ...]]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
A = TypeVar("A")

LONGEST_TIMEOUT_S: Final = 86_400.0  # a day; beyond, timers overflow
KEPT_STATISTICS: Final = 1000  # of models that are gone, before those are looked for
REPORT_FAILURES_EVERY_S: Final = 10.0  # of one model, in the journal; all are counted

log = get_logger("shoal.requests")


class Call(Asked[T_co], Protocol[T_co]):
    """One inference as its protocol sees it. protocol: `v1`, `v2`, …, for metrics. size_bytes: of
    the decompressed body once it is decoded, by which the cost of a call is judged. origin: the
    instance that sent it here; "": a client."""

    protocol: str
    origin: str

    @property
    def size_bytes(self) -> int: ...

    @property
    def request_id(self) -> str:
        """By which clients and operators tell it from others."""

    def decode(self, signature: Signature) -> InferRequest:
        """Raises InvalidRequest, DeadlineExceeded."""

    def encode(
        self, response: InferResponse, request: InferRequest
    ) -> T_co | Awaitable[T_co]:
        """Raises InvalidRequest for what the protocol cannot carry."""

    def refuse(self, error: ShoalError) -> T_co: ...

    def timeout_s(self, default_s: float) -> float:
        """What the client allows the whole to take. Raises InvalidRequest, DeadlineExceeded."""


class Plan:
    """What was prepared for the requests of one live copy."""

    __slots__ = ("check", "metrics", "model", "signature", "statistics", "version")

    def __init__(self, copy: LiveCopy, metrics: ModelMetrics, statistics: Statistics) -> None:
        self.model = copy.revision.model
        self.version = str(copy.revision.version)
        self.signature = copy.signature
        self.check = RequestCheck(copy.signature)
        self.metrics = metrics
        self.statistics = statistics


class Inference:
    """The way of a request through one instance. links: to others, where there are any. logs: is
    each request logged?"""

    def __init__(self, instance: Instance, links: Links | None = None) -> None:
        self.logs: Final = instance.settings.log.requests
        self._instance = instance
        self._activity = instance.activity
        self._timeout_s = instance.settings.request.timeout_s
        self._forwarding = Forwarding(instance, links)
        self._statistics: dict[tuple[str, int], Statistics] = {}

    def infer(self, call: Call[T]) -> T | Awaitable[T]:
        """The answer, at once where that is possible. Errors become answers too."""
        copy = self._instance.find(call.name, call.version)
        if copy is not None:
            return self._run(call, copy)
        there = self._instance.elsewhere(call.name, call.version)
        if there is None:
            return self._cold(call)
        try:
            return self._forwarding.forward(call, there, call.timeout_s(inf), self)
        except ShoalError as error:
            return self._fail(call, None, error)

    def infer_here(self, call: Call[T]) -> T | Awaitable[T]:
        """As `infer`, for another instance: by the copy of `call.revision`, and no other."""
        copy = self._instance.live.get(call.revision)
        return self._cold(call) if copy is None else self._run(call, copy)

    async def reach(self, asked: Asked[T], timeout_s: float) -> LiveCopy | Answer[T]:
        """The copy that answers now, loaded if need be, which the caller must release; or what
        another instance that has it answered. Raises as `Instance.acquire` does."""
        copy = self._found(asked)
        if copy is not None:
            copy.retain()
            return copy
        return await self._forwarding.reach(asked, timeout_s)

    def _run(self, call: Call[T], copy: LiveCopy) -> T | Awaitable[T]:
        plan = self.plan(copy)
        try:
            request = call.decode(plan.signature)
            arrays = plan.check.arrays(request)
            wanted = plan.check.outputs(request)
            decoded_at = perf_counter()
            if not copy.may_run_inline(call.size_bytes):
                return self._warm(call, copy, (request, arrays, wanted), decoded_at)
            prediction = copy.predict_inline(arrays, request.parameters, wanted)
            return self._finish(call, plan, (request, wanted, decoded_at), prediction, 0.0)
        except ShoalError as error:
            return self._fail(call, plan, error)

    def _found(self, asked: Asked[object]) -> LiveCopy | None:
        if asked.revision:
            return self._instance.live.get(asked.revision)
        return self._instance.find(asked.name, asked.version)

    def plan(self, copy: LiveCopy) -> Plan:
        plan = copy.attachment
        if type(plan) is not Plan:
            name = copy.revision.model
            statistics = self.statistics(name, copy.revision.version)
            plan = copy.attachment = Plan(copy, self._instance.metrics.model(name), statistics)
            copy.on_joined = self._counting_joined(statistics)
        return plan

    def _counting_joined(self, statistics: Statistics) -> Callable[[int, int, float], None]:
        """What a copy calls when requests ran as one."""
        metrics = self._instance.metrics

        def count(calls: int, answered: int, seconds: float) -> None:
            statistics.count_joined(calls, answered, seconds)
            metrics.joined(calls)

        return count

    def statistics(self, name: str, version: int) -> Statistics:
        """Kept as long as the model is registered."""
        found = self._statistics.get((name, version))
        if found is None:
            registered = self._instance.replica
            if len(self._statistics) > 2 * len(registered) + KEPT_STATISTICS:
                self._statistics = {
                    key: kept for key, kept in self._statistics.items() if key[0] in registered
                }
            found = self._statistics[name, version] = Statistics()
        return found

    def counted(self, model: str | None) -> dict[tuple[str, int], Statistics]:
        """By model and version: of one model, or (None) of every version that is in memory or
        answered requests."""
        if model is not None:
            return {key: each for key, each in self._statistics.items() if key[0] == model}
        live = {(copy.revision.model, copy.revision.version): Statistics()
                for copy in self._instance.live.values()}
        return live | self._statistics

    # --- the asynchronous way -------------------------------------------------------------------

    async def _warm(
        self, call: Call[T], copy: LiveCopy, decoded: _Decoded, decoded_at: float
    ) -> T:
        """Run a call that is too long for the event loop.

        The copy is retained only now: whoever is cancelled before the first step would never
        release it. So it may have left meanwhile.
        """
        if self._found(call) is not copy:
            return await self._cold(call)
        copy.retain()
        try:
            return await self._threaded(call, copy, decoded, decoded_at)
        finally:
            copy.release()

    async def _cold(self, call: Call[T], attempt: int = 0, miss: Miss | None = None) -> T:
        """Wait for a copy, here or elsewhere, then go on as usual."""
        try:
            timeout_s = call.timeout_s(self._timeout_s)
            found = await self._forwarding.reach(call, timeout_s, attempt, miss)
        except ShoalError as error:
            return self._fail(call, None, error)
        if isinstance(found, Answer):
            self._count_forwarded(call, found.status, found.instance, waited=found.cold)
            answer: T = found.answer
            return answer
        try:
            return await self._loaded(call, found)
        finally:
            found.release()

    async def _loaded(self, call: Call[T], copy: LiveCopy) -> T:
        load_s = perf_counter() - call.started
        if not call.origin:
            self._activity.cold += 1
            self._activity.cold_latency.observe(load_s, call.started + load_s)
        plan = self.plan(copy)
        try:
            request = call.decode(plan.signature)
            decoded = request, plan.check.arrays(request), plan.check.outputs(request)
        except ShoalError as error:
            return self._fail(call, plan, error)
        return await self._threaded(call, copy, decoded, perf_counter(), load_s)

    async def _threaded(
        self, call: Call[T], copy: LiveCopy, decoded: _Decoded, decoded_at: float,
        load_s: float = 0.0,
    ) -> T:
        """Run on a thread; `copy` is retained."""
        request, arrays, wanted = decoded
        plan = self.plan(copy)
        allowed_s = call.timeout_s(self._timeout_s)
        try:
            async with asyncio.timeout(allowed_s - (perf_counter() - call.started)):
                prediction = await copy.predict(
                    arrays, request.parameters, wanted, call.size_bytes
                )
            return await _whole(
                self._finish(call, plan, (request, wanted, decoded_at), prediction, load_s)
            )
        except TimeoutError:
            return self._fail(call, plan, too_late(call, allowed_s))
        except ShoalError as error:
            return self._fail(call, plan, error)

    # --- ends -----------------------------------------------------------------------------------

    def _finish(
        self, call: Call[T], plan: Plan, asked: tuple[InferRequest, tuple[str, ...], float],
        prediction: Prediction, load_s: float,
    ) -> T | Awaitable[T]:
        request, wanted, decoded_at = asked
        outputs, queue_s, compute_s = prediction
        answer = call.encode(
            make_response(plan.model, plan.version, outputs, request, wanted), request
        )
        ended = perf_counter()
        took_s = ended - call.started
        statistics = plan.statistics
        if not call.origin:  # else it is counted where its client is
            activity = self._activity
            activity.requests += 1
            activity.latency.observe(took_s, ended)
            if not load_s:
                activity.hits += 1
        if queue_s or load_s:
            plan.metrics.request(call.protocol, "200", took_s)
            plan.metrics.stages(queue_s, load_s, compute_s)
            statistics.queue_s += queue_s + load_s
        else:
            plan.metrics.at_once(call.protocol, took_s, compute_s)
        statistics.successes += 1
        statistics.success_s += took_s
        statistics.decode_s += decoded_at - call.started - load_s
        statistics.compute_s += compute_s
        statistics.last_at = ended
        if self.logs:
            self._log(call, "200", took_s)
        return answer

    # --- what other instances answered: `forwarding.Entry` ----------------------------------------

    def answered(self, asked: Asked[T], status: int, instance: str) -> None:
        self._count_forwarded(cast("Call[T]", asked), status, instance, waited=False)

    def refuse(self, asked: Asked[T], error: ShoalError) -> T:
        return self._fail(cast("Call[T]", asked), None, error)

    def retry(self, asked: Asked[T], miss: Miss) -> Coroutine[None, None, T]:
        return self._cold(cast("Call[T]", asked), 1, miss)

    def _count_forwarded(
        self, call: Call[T], status: int, instance: str, *, waited: bool
    ) -> None:
        """The model's own figures are counted where it ran. waited: for a load."""
        ended = perf_counter()
        took_s = ended - call.started
        activity = self._activity
        activity.requests += 1
        if status >= 400:
            activity.failed += 1
        else:
            activity.latency.observe(took_s, ended)
            if waited:
                activity.cold += 1
                activity.cold_latency.observe(took_s, ended)
            else:
                activity.hits += 1
        if self.logs:
            self._log(call, str(status), took_s, forwarded_to=instance)

    # --- errors ---------------------------------------------------------------------------------

    def count_unreached(self, protocol: str, error: ShoalError) -> None:
        """A request that failed before it could name a model; `protocol`: by its path."""
        if protocol in ("v1", "v2", "grpc"):
            self._activity.requests += 1
            self._activity.failed += 1
            self._instance.metrics.no_model.request(protocol, str(http_status(error)), 0.0)

    def _fail(self, call: Call[T], plan: Plan | None, error: ShoalError) -> T:
        took_s = perf_counter() - call.started
        code = str(http_status(error))
        if not call.origin:
            self._activity.requests += 1
            self._activity.failed += 1
        metrics = self._instance.metrics
        if call.origin and isinstance(error, Unavailable):
            pass  # no answer yet: another instance may have a better one
        elif plan is not None:
            plan.metrics.request(call.protocol, code, took_s)
            plan.statistics.fails += 1
            plan.statistics.fail_s += took_s
            if isinstance(error, ModelFailed):
                self._report(call, plan, error)
        elif call.name in self._instance.replica:
            metrics.model(call.name).request(call.protocol, code, took_s)
        else:
            metrics.no_model.request(call.protocol, code, took_s)
        if self.logs:
            self._log(call, code, took_s, problem=error.message)
        return call.refuse(error)

    def _report(self, call: Call[T], plan: Plan, error: ModelFailed) -> None:
        now = perf_counter()
        if now - plan.statistics.reported_at > REPORT_FAILURES_EVERY_S:
            plan.statistics.reported_at = now
            self._instance.journal.note("model_raised", error.message, model=plan.model)
            log.debug(
                "model raised", model=plan.model, request_id=call.request_id,
                exc_info=error.__cause__,
            )

    def _log(self, call: Call[T], code: str, took_s: float, **more: str) -> None:
        if call.origin:
            more["forwarded_from"] = call.origin
        log.info(
            "request", model=call.name, version=call.version, protocol=call.protocol,
            code=int(code), took_ms=round(took_s * 1e3, 3), request_id=call.request_id, **more,
        )


async def _whole(answer: A | Awaitable[A]) -> A:
    return await answer if isawaitable(answer) else answer
