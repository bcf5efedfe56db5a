"""A ready copy as the hot path sees it: runs calls inline or on threads, and counts them.

Must not know the core: it reads the marks that are left here (uses, last use) on its ticks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Final, NamedTuple

from shoal.domain.errors import ModelFailed, Overloaded, ShoalError
from shoal.domain.model import JsonValue, Revision

if TYPE_CHECKING:
    from shoal.ports import Arrays, LoadedModel

FIRST_INLINE_BYTES: Final = 0  # the first call is measured on a thread
GROWTH: Final = 2  # a call with so many times the bytes of a fast one may run inline too
TOO_SLOW: Final = 4  # an inline call that takes so many times the limit ends running inline


class Prediction(NamedTuple):
    """outputs by name; seconds spent waiting for a turn, and in the model."""

    outputs: Arrays
    queue_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class Running:
    """How the models of an instance run. inline_limit_s: calls that take less run on the event
    loop. max_queued: calls that may wait for one copy."""

    pool: ThreadPoolExecutor
    threads: int
    inline_limit_s: float
    max_queued: int


class LiveCopy:
    """`uses` and `last_used` (`time.monotonic`) are marks for the core. `attachment` belongs to the
    data plane: what it prepared for this copy's requests."""

    __slots__ = (
        "_inline_bytes", "_most_calls", "_on_idle", "_on_threads", "_running", "_turns",
        "attachment", "busy_s", "in_flight", "last_used", "model", "platform", "queued",
        "reported_s", "reported_uses", "revision", "signature", "size_bytes", "uses",
    )

    def __init__(self, revision: Revision, model: LoadedModel, running: Running) -> None:
        self.revision = revision
        self.model = model
        self.signature = model.signature
        self.platform = model.platform
        self.attachment: object = None
        self.size_bytes = 0
        self.uses = 0
        self.busy_s = 0.0  # in the model, all calls together
        self.reported_uses = 0
        self.reported_s = 0.0
        self.last_used = 0.0
        self.in_flight = 0
        self.queued = 0
        self._running = running
        self._most_calls = max(revision.max_concurrency or model.max_concurrency, 1)
        # One thread stays free for others, so that a slow model does not delay them.
        self._turns = asyncio.Semaphore(min(self._most_calls, max(running.threads - 1, 1)))
        self._on_threads = 0  # calls that run there now
        self._inline_bytes = FIRST_INLINE_BYTES
        self._on_idle: Callable[[], None] | None = None

    # --- calls ----------------------------------------------------------------------------------

    def may_run_inline(self, input_bytes: int) -> bool:
        """Whether a call of this size is known to be short enough for the event loop, and the
        model takes one more call now."""
        return 0 < input_bytes <= self._inline_bytes and self._on_threads < self._most_calls

    def predict_inline(
        self, inputs: Arrays, parameters: Mapping[str, JsonValue], outputs: tuple[str, ...]
    ) -> Prediction:
        """Run on the caller's thread. Raises InvalidInput or ModelFailed."""
        started = perf_counter()
        try:
            answer = self.model.predict(inputs, parameters, outputs)
        except ShoalError:
            raise
        except BaseException as error:  # its SystemExit must not end the server
            raise self._failed(error) from error
        finally:
            ended = perf_counter()
            compute_s = ended - started
            self.uses += 1
            self.busy_s += compute_s
            self.last_used = ended
            if compute_s > self._running.inline_limit_s * TOO_SLOW:
                self._inline_bytes = 0
        return Prediction(answer, 0.0, compute_s)

    async def predict(
        self, inputs: Arrays, parameters: Mapping[str, JsonValue], outputs: tuple[str, ...],
        input_bytes: int,
    ) -> Prediction:
        """Run on a thread, when it is this call's turn; inline, if it has turned out meanwhile that
        this is short enough. A call that began ends, even if the caller is cancelled meanwhile.
        Raises InvalidInput, ModelFailed, Overloaded."""
        if self.queued >= self._running.max_queued:
            raise Overloaded(
                f"model {self.revision.model!r}: {self.queued} requests wait for it already "
                "(request.max_queued_per_model); try again later"
            )
        queued_at = perf_counter()
        self.retain()
        self.queued += 1
        try:
            await self._turns.acquire()
        except BaseException:
            self.release()
            raise
        finally:
            self.queued -= 1
        queue_s = perf_counter() - queued_at
        if self.may_run_inline(input_bytes):
            try:
                return self.predict_inline(inputs, parameters, outputs)._replace(queue_s=queue_s)
            finally:
                self._turns.release()
                self.release()
        call = asyncio.get_running_loop().run_in_executor(
            self._running.pool, self._timed, inputs, parameters, outputs
        )
        self._on_threads += 1
        call.add_done_callback(self._ended)
        answer, compute_s, cost_s = await asyncio.shield(call)
        if cost_s < self._running.inline_limit_s:
            self._inline_bytes = max(self._inline_bytes, GROWTH * input_bytes)
        return Prediction(answer, queue_s, compute_s)

    def _timed(
        self, inputs: Arrays, parameters: Mapping[str, JsonValue], outputs: tuple[str, ...]
    ) -> tuple[Arrays, float, float]:
        """The outputs; seconds that it took; and what it would cost the event loop.

        On a thread a call also waits for the interpreter's lock, which it would not on the loop: so
        processor time counts, unless the model may wait for other things.
        """
        started, used = perf_counter(), thread_time()
        try:
            answer = self.model.predict(inputs, parameters, outputs)
        except ShoalError:
            raise
        except BaseException as error:  # its SystemExit must not end the server
            raise self._failed(error) from error
        took_s = perf_counter() - started
        return answer, took_s, took_s if self.model.may_wait else thread_time() - used

    def _ended(self, call: asyncio.Future[tuple[Arrays, float, float]]) -> None:
        self._on_threads -= 1
        self._turns.release()
        self.uses += 1
        self.last_used = perf_counter()
        if not call.cancelled() and call.exception() is None:
            self.busy_s += call.result()[1]
        self.release()

    def _failed(self, error: BaseException) -> ModelFailed:
        first_line = (str(error).strip().splitlines() or [""])[0][:300]
        return ModelFailed(
            f"model {self.revision.model!r} failed: {type(error).__name__}: {first_line}"
        )

    # --- leaving --------------------------------------------------------------------------------

    def retain(self) -> None:
        """Keep it in memory until `release`."""
        self.in_flight += 1

    def release(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0 and self._on_idle is not None:
            self._on_idle()

    def when_idle(self, act: Callable[[], None]) -> None:
        """Call `act` as soon as nothing runs here; now, if nothing does. No new call may come."""
        self._on_idle = act
        if self.in_flight == 0:
            act()
