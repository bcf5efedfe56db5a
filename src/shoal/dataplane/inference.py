"""Runs inferences, whatever protocol they came by: find the copy, check, predict, count.

A request for a ready copy whose calls are short is answered without a task or a thread; all others
take the asynchronous way. Must not know HTTP or gRPC: a `Call` reads and writes their bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import groupby
from operator import itemgetter
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

from shoal.codecs.errors import http_status
from shoal.codecs.message import InferRequest, InferResponse
from shoal.dataplane import describe
from shoal.dataplane.statistics import Statistics
from shoal.dataplane.validation import RequestCheck, make_response
from shoal.domain.errors import DeadlineExceeded, ModelFailed, ShoalError
from shoal.domain.model import ModelRecord
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

KEPT_STATISTICS: Final = 1000  # of models that are gone, before those are looked for
REPORT_FAILURES_EVERY_S: Final = 10.0  # of one model, in the journal; all are counted

log = get_logger("shoal.requests")


class Call(Protocol[T_co]):
    """One inference as its protocol sees it. protocol: `v1`, `v2`, …, for metrics. size_bytes: of
    the decompressed body once it is decoded, by which the cost of a call is judged. started:
    `perf_counter` at its arrival."""

    protocol: str
    name: str
    version: int | None
    size_bytes: int
    started: float

    @property
    def request_id(self) -> str:
        """By which clients and operators tell it from others."""

    def decode(self, signature: Signature) -> InferRequest:
        """Raises InvalidRequest, DeadlineExceeded."""

    def encode(self, response: InferResponse, request: InferRequest) -> T_co:
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
    """The way of a request through one instance."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._activity = instance.activity
        self._timeout_s = instance.settings.request.timeout_s
        self._log_requests = instance.settings.log.requests
        self._statistics: dict[tuple[str, int], Statistics] = {}

    def infer(self, call: Call[T]) -> T | Awaitable[T]:
        """The answer, at once where that is possible. Errors become answers too."""
        copy = self._instance.find(call.name, call.version)
        if copy is None:
            return self._cold(call)
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

    async def ready_copy(self, name: str, version: int | None, timeout_s: float) -> LiveCopy:
        """The copy that answers now, loaded if need be; the caller must release it. Raises as
        `Instance.acquire` does."""
        copy = self._instance.find(name, version)
        if copy is not None:
            copy.retain()
            return copy
        return await self._instance.acquire(name, version, timeout_s)

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

    def model_stats(self, name: str, versions: list[int]) -> list[dict[str, object]]:
        """Of these versions of a model, as the statistics extension shows them."""
        return [
            describe.statistics(name, version, self._statistics.get((name, version), Statistics()))
            for version in versions
        ]

    def all_stats(self) -> list[dict[str, object]]:
        """Of every version that is in memory or answered requests, and is still served."""
        live = {(copy.revision.model, copy.revision.version)
                for copy in self._instance.live.values()}
        return [
            entry
            for name, versions in groupby(sorted(live | self._statistics.keys()), itemgetter(0))
            if (record := self._instance.replica.get(name)) is not None
            for entry in self.model_stats(name, _both(record, versions))
        ]

    # --- the asynchronous way -------------------------------------------------------------------

    async def _warm(
        self, call: Call[T], copy: LiveCopy, decoded: _Decoded, decoded_at: float
    ) -> T:
        """Run a call that is too long for the event loop.

        The copy is retained only now: whoever is cancelled before the first step would never
        release it. So it may have left meanwhile.
        """
        if self._instance.find(call.name, call.version) is not copy:
            return await self._cold(call)
        copy.retain()
        try:
            return await self._threaded(call, copy, decoded, decoded_at)
        finally:
            copy.release()

    async def _cold(self, call: Call[T]) -> T:
        """Wait for the copy, then go on as usual."""
        try:
            timeout_s = call.timeout_s(self._timeout_s)
            copy = await self._instance.acquire(call.name, call.version, timeout_s)
        except ShoalError as error:
            return self._fail(call, None, error)
        try:
            return await self._loaded(call, copy)
        finally:
            copy.release()

    async def _loaded(self, call: Call[T], copy: LiveCopy) -> T:
        load_s = perf_counter() - call.started
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
            return self._finish(call, plan, (request, wanted, decoded_at), prediction, load_s)
        except TimeoutError:
            error = DeadlineExceeded(
                f"model {call.name!r} did not answer within {allowed_s:g} s; allow it more time, "
                "or send less at once"
            )
            return self._fail(call, plan, error)
        except ShoalError as error:
            return self._fail(call, plan, error)

    # --- ends -----------------------------------------------------------------------------------

    def _finish(
        self, call: Call[T], plan: Plan, asked: tuple[InferRequest, tuple[str, ...], float],
        prediction: Prediction, load_s: float,
    ) -> T:
        request, wanted, decoded_at = asked
        outputs, queue_s, compute_s = prediction
        answer = call.encode(
            make_response(plan.model, plan.version, outputs, request, wanted), request
        )
        ended = perf_counter()
        took_s = ended - call.started
        activity, statistics = self._activity, plan.statistics
        activity.requests += 1
        activity.latency.observe(took_s, ended)
        if queue_s or load_s:
            plan.metrics.request(call.protocol, "200", took_s)
            plan.metrics.stages(queue_s, load_s, compute_s)
            statistics.queue_s += queue_s + load_s
        else:
            plan.metrics.at_once(call.protocol, took_s, compute_s)
        if not load_s:
            activity.hits += 1
        statistics.successes += 1
        statistics.success_s += took_s
        statistics.decode_s += decoded_at - call.started - load_s
        statistics.compute_s += compute_s
        statistics.last_at = ended
        if self._log_requests:
            self._log(call, "200", took_s)
        return answer

    def count_unreached(self, protocol: str, error: ShoalError) -> None:
        """A request that failed before it could name a model; `protocol`: by its path."""
        if protocol in ("v1", "v2", "grpc"):
            self._activity.requests += 1
            self._activity.failed += 1
            self._instance.metrics.no_model.request(protocol, str(http_status(error)), 0.0)

    def _fail(self, call: Call[T], plan: Plan | None, error: ShoalError) -> T:
        took_s = perf_counter() - call.started
        code = str(http_status(error))
        self._activity.requests += 1
        self._activity.failed += 1
        metrics = self._instance.metrics
        if plan is not None:
            plan.metrics.request(call.protocol, code, took_s)
            plan.statistics.fails += 1
            plan.statistics.fail_s += took_s
            if isinstance(error, ModelFailed):
                self._report(call, plan, error)
        elif call.name in self._instance.replica:
            metrics.model(call.name).request(call.protocol, code, took_s)
        else:
            metrics.no_model.request(call.protocol, code, took_s)
        if self._log_requests:
            self._log(call, code, took_s, error.message)
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

    def _log(self, call: Call[T], code: str, took_s: float, problem: str | None = None) -> None:
        log.info(
            "request", model=call.name, version=call.version, protocol=call.protocol,
            code=int(code), took_ms=round(took_s * 1e3, 3), request_id=call.request_id,
            **({} if problem is None else {"problem": problem}),
        )


def _both(record: ModelRecord, counted: Iterable[tuple[str, int]]) -> list[int]:
    """The versions that are counted and that `record` serves."""
    served = {revision.version for revision in record.revisions}
    return [version for _, version in counted if version in served]
