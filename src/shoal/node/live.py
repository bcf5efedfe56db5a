"""A ready copy as the hot path sees it: runs calls inline, on threads or joined, and counts them.

Short calls run on the event loop. Longer ones wait for a thread, and those that wait are run
together, by rows, where the model allows it and it pays (`batching`, `call_cost`, `batch_run`).
Calls in between, short but costly beside a turn of the loop, are gathered over a turn while they
come in company. Must not know the core: it reads the marks that are left here (uses, last use) on
its ticks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from shoal.domain.errors import Overloaded, ShoalError
from shoal.domain.model import JsonValue, Revision
from shoal.node.batch_run import BatchRun, Outcome, model_failed
from shoal.node.batching import Kind, kind_of, take
from shoal.node.joining import TRIAL_CALLS, Joining
from shoal.ports import Apart

if TYPE_CHECKING:
    from shoal.ports import Arrays, LoadedModel

FIRST_INLINE_BYTES: Final = 0  # the first call is measured on a thread
GROWTH: Final = 2  # a call with so many times the bytes of a fast one may run inline too
TOO_SLOW: Final = 4  # inline calls that take so many times the limit end running inline,
SLOW_WITHIN: Final = 50  # if two of so many do: once it may be that the system took the processor

# What a call costs that is gathered instead of run at once: about 20 µs, and as much again so that
# cheap calls do not seem dear where others use the processor too.
GATHERING_COSTS_S: Final = 40e-6
COMPANY: Final = 1.5  # calls in a turn from which they are gathered
ALONE: Final = 1.2  # and below which they no longer are
NEW_COMPANY: Final = 0.1  # weight of the latest turn


class Prediction(NamedTuple):
    """outputs by name; seconds spent waiting for a turn, and in the model."""

    outputs: Arrays
    queue_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class Running:
    """How the models of an instance run. inline_limit_s: calls that take less run on the event
    loop. max_queued: calls that may wait for one copy. max_batch_rows: of calls that run as one,
    where the model does not say; max_batch_delay_s: how long a call may wait for others."""

    pool: ThreadPoolExecutor
    threads: int
    inline_limit_s: float
    max_queued: int
    max_batch_rows: int = 1
    max_batch_delay_s: float = 0.0


class WaitingCall:
    """answer: what its caller awaits. alone: it was joined with others, and that failed."""

    __slots__ = (
        "alone", "answer", "inputs", "kind", "outputs", "parameters", "queued_at", "rows",
        "size_bytes",
    )

    def __init__(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                 outputs: tuple[str, ...], size_bytes: int) -> None:
        self.inputs = inputs
        self.parameters = parameters
        self.outputs = outputs
        self.size_bytes = size_bytes
        self.rows = 0
        self.kind: Kind | None = None
        self.alone = False
        self.queued_at = perf_counter()
        self.answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()


class LiveCopy:
    """`uses` and `last_used` (`time.monotonic`) are marks for the core. `attachment` belongs to the
    data plane: what it prepared for this copy's requests. `on_joined` is called when calls ran as
    one, with their number, how many of them were still waited for, and the seconds it took; `tell`
    with what people should know."""

    __slots__ = (
        "_company",
        "_delay_s",
        "_in_turn",
        "_inline_bytes",
        "_joining",
        "_long_s",
        "_most_calls",
        "_on_idle",
        "_on_threads",
        "_running",
        "_short_bytes",
        "_short_s",
        "_slow_at",
        "_threads",
        "_timer",
        "_uses_before",
        "_waiting",
        "_woken",
        "accelerator_bytes",
        "attachment",
        "busy_s",
        "in_flight",
        "last_used",
        "model",
        "on_joined",
        "platform",
        "reported_s",
        "reported_uses",
        "revision",
        "signature",
        "size_bytes",
        "tell",
        "uses",
    )

    def __init__(self, revision: Revision, model: LoadedModel, running: Running) -> None:
        self.revision = revision
        self.model = model
        self.signature = model.signature
        self.platform = model.platform
        self.attachment: object = None
        self.on_joined: Callable[[int, int, float], None] | None = None
        self.tell: Callable[[str], None] | None = None
        self.size_bytes = 0
        self.accelerator_bytes = 0
        self.uses = 0
        self.busy_s = 0.0  # in the model, all calls together
        self.reported_uses = 0
        self.reported_s = 0.0
        self.last_used = 0.0
        self.in_flight = 0
        self._running = running
        self._most_calls = max(revision.max_concurrency or model.max_concurrency, 1)
        # One thread stays free for others, so that a slow model does not delay them.
        self._threads = min(self._most_calls, max(running.threads - 1, 1))
        self._on_threads = 0  # calls of the model that run there now
        self._long_s = min(GATHERING_COSTS_S, running.inline_limit_s * TOO_SLOW)
        # Calls that take less are short. Of a process of its own none is, for it may hang.
        self._short_s = 0.0 if isinstance(model, Apart) else running.inline_limit_s
        self._short_bytes = FIRST_INLINE_BYTES  # calls of so many bytes are short
        self._inline_bytes = FIRST_INLINE_BYTES  # the same, or 0 while calls are gathered
        self._slow_at = -SLOW_WITHIN  # `uses` after the latest inline call that was too slow
        self._waiting: list[WaitingCall] = []
        self._woken = False  # `_dispatch` will be called in this turn of the loop
        self._timer: asyncio.TimerHandle | None = None
        self._joining = Joining(revision, model, running.max_batch_rows)
        delay_ms = revision.max_batch_delay_ms
        self._delay_s = running.max_batch_delay_s if delay_ms is None else delay_ms / 1e3
        self._company = 1.0  # calls that come in one turn of the loop, averaged
        self._in_turn = 0  # long calls in this turn
        self._uses_before = 0  # `uses` when a turn with long calls ended last
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
            raise model_failed(self.revision.model, error) from error
        finally:
            ended = perf_counter()
            compute_s = ended - started
            self.uses += 1
            self.busy_s += compute_s
            self.last_used = ended
            if compute_s > self._long_s:
                self._took_long(inputs, compute_s)
        return Prediction(answer, 0.0, compute_s)

    async def predict(
        self, inputs: Arrays, parameters: Mapping[str, JsonValue], outputs: tuple[str, ...],
        input_bytes: int,
    ) -> Prediction:
        """Run on a thread, when it is this call's turn; inline, if it has turned out meanwhile that
        this is short enough; joined with others that wait, where that pays. A call that began ends,
        even if the caller is cancelled meanwhile. Raises InvalidInput, ModelFailed, Overloaded."""
        free = self._threads - self._on_threads
        if len(self._waiting) >= self._running.max_queued + free:
            raise Overloaded(
                f"model {self.revision.model!r}: {self.queued} requests wait for it already "
                "(request.max_queued_per_model); try again later"
            )
        call = WaitingCall(inputs, parameters, outputs, input_bytes)
        if self._joining.most_rows > 1:
            call.rows, call.kind = kind_of(inputs, parameters, outputs)
        self.retain()
        self._waiting.append(call)
        self._wake()
        try:
            return await call.answer
        except asyncio.CancelledError:
            if call in self._waiting:
                self._waiting.remove(call)
                self.release()
            elif call.answer.done() and not call.answer.cancelled():
                call.answer.exception()  # it came too late; asyncio would report it
            raise

    @property
    def queued(self) -> int:
        """Calls that wait for their turn."""
        return len(self._waiting)

    # --- turns ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Look soon who can run: after what else this turn of the loop brings, to find company, and
        after the next look at the sockets, so that long queues hold nobody up."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._woken = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self._on_threads == 0 and self._is_short(self._waiting[0]):
            self._note_company(len(self._waiting))
        while self._waiting and self._on_threads < self._threads:
            if self._delay_s > 0.0 and self._waits_for_more():
                return
            short = self._is_short(self._waiting[0])
            calls = self._next_calls(on_loop=short)
            if short:
                self._run_on_loop(calls)
                if self._waiting:
                    self._wake()
                return
            self._run_on_thread(calls)

    def _is_short(self, call: WaitingCall) -> bool:
        return 0 < call.size_bytes <= self._short_bytes

    def _next_calls(self, *, on_loop: bool) -> list[WaitingCall]:
        """The first that waits, with those that run as one with it."""
        if self._waiting[0].alone:
            return [self._waiting.pop(0)]
        joining = self._joining
        rows = joining.rows_within(self._running.inline_limit_s) if on_loop else joining.rows()
        most_calls = TRIAL_CALLS if joining.trials else len(self._waiting)
        if not on_loop:  # what other threads could begin at once is theirs
            free = self._threads - self._on_threads
            most_calls = min(most_calls, -(-len(self._waiting) // free))
        return take(self._waiting, rows, most_calls)

    def _waits_for_more(self) -> bool:
        """Whether the first in line may still wait for others, and they would gain something."""
        first = self._waiting[0]
        rows = self._joining.rows()
        left_s = first.queued_at + self._delay_s - perf_counter()
        if first.alone or first.kind is None or rows < 2 or left_s <= 0.0:
            return False
        if sum(call.rows for call in self._waiting if call.kind == first.kind) >= rows:
            return False
        self._timer = asyncio.get_running_loop().call_later(left_s, self._dispatch)
        return True

    # --- runs -----------------------------------------------------------------------------------

    def _run_on_loop(self, calls: list[WaitingCall]) -> None:
        started = perf_counter()
        run = BatchRun(self.revision.model, self.model, on_loop=True)
        self._end(calls, started, run.run(calls, trial=self._joining.trials > 0))

    def _run_on_thread(self, calls: list[WaitingCall]) -> None:
        run = BatchRun(self.revision.model, self.model, on_loop=False)
        trial = self._joining.trials > 0

        def act() -> tuple[float, Outcome]:
            started = perf_counter()
            return started, run.run(calls, trial=trial)

        self._on_threads += 1
        future = asyncio.get_running_loop().run_in_executor(self._running.pool, act)
        future.add_done_callback(lambda done: self._ended_on_thread(calls, done))

    def _ended_on_thread(
        self, calls: list[WaitingCall], done: asyncio.Future[tuple[float, Outcome]]
    ) -> None:
        self._on_threads -= 1
        if done.cancelled():  # the instance stops
            for call in calls:
                call.answer.cancel()
                self.release()
            return
        started, outcome = done.result()
        if outcome.measured and all(seconds < self._short_s for _, seconds in outcome.measured):
            size_bytes = max(call.size_bytes for call in calls)
            self._short_bytes = max(self._short_bytes, GROWTH * size_bytes)
            self._choose_way()
        self._end(calls, started, outcome)
        if self._waiting:
            self._dispatch()

    def _end(self, calls: list[WaitingCall], started: float, outcome: Outcome) -> None:
        """Give the answers; calls that failed together go back to the front of the line."""
        for rows, seconds in outcome.measured:
            if rows:
                self._joining.cost.add(rows, seconds)
        self.busy_s += outcome.took_s
        self.last_used = perf_counter()
        if len(calls) > 1:
            self._note_joined(calls, outcome)
        if not outcome.answers:
            for call in calls:
                call.alone = True
            self._waiting[:0] = calls
            self._wake()
            return
        self.uses += len(calls)
        for call, answer in zip(calls, outcome.answers, strict=True):
            if call.answer.done():  # its caller has left
                pass
            elif isinstance(answer, ShoalError):
                call.answer.set_exception(answer)
            else:
                queue_s = started - call.queued_at
                call.answer.set_result(Prediction(answer, queue_s, outcome.took_s))
            self.release()

    def _note_joined(self, calls: list[WaitingCall], outcome: Outcome) -> None:
        """What was learnt of joining calls of this model."""
        problem = self._joining.learn(outcome)
        if problem is not None:
            self._choose_way()
            if self.tell is not None:
                self.tell(
                    f"requests for model {self.revision.model!r} are no longer run together: "
                    f"{problem}; max_batch_rows: 1 in its declaration says so from the start"
                )
        elif outcome.answers and not outcome.trial and self.on_joined is not None:
            answered = sum(not call.answer.done() for call in calls)
            self.on_joined(len(calls), answered, outcome.took_s)

    # --- inline or gathered ---------------------------------------------------------------------

    def _took_long(self, inputs: Arrays, seconds: float) -> None:
        """A call on the loop took so long that company would be worth waiting for, or longer."""
        if seconds > self._running.inline_limit_s * TOO_SLOW:
            before, self._slow_at = self._slow_at, self.uses
            if self._slow_at - before < SLOW_WITHIN:
                self._short_bytes = self._inline_bytes = 0
        if self._joining.most_rows < 2:
            return
        shape = next(iter(inputs.values())).shape if inputs else ()
        if shape and shape[0]:
            self._joining.cost.add(shape[0], seconds)
        self._in_turn += 1
        if self._in_turn == 1:
            asyncio.get_running_loop().call_soon(self._turn_ended)

    def _turn_ended(self) -> None:
        """Where only some calls were long, others held them up, and they are worth no wait."""
        calls, self._in_turn = self._in_turn, 0
        all_calls, self._uses_before = self.uses - self._uses_before, self.uses
        self._note_company(calls if 2 * calls >= all_calls else 1)

    def _note_company(self, calls: int) -> None:
        """So many calls came in one turn of the loop."""
        self._company += (calls - self._company) * NEW_COMPANY
        self._choose_way()

    def _choose_way(self) -> None:
        """Whether short calls run as they come, or are gathered over a turn of the loop."""
        company = self._company
        gathering = self._inline_bytes < self._short_bytes
        gathers = (
            company > (ALONE if gathering else COMPANY)
            and self._joining.saves_s(company) > company * GATHERING_COSTS_S
        )
        self._inline_bytes = 0 if gathers else self._short_bytes

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
