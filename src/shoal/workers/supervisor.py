"""Starts the workers, watches them, starts them anew, replaces them, and ends them all.

Runs in a process of its own that holds no model and takes no request, so that nothing there breaks.
Must not know what workers do: it imports none of it, to stay small.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Final

import msgspec

import shoal
from shoal.dataplane.shares import Shares
from shoal.observability.logs import configure_logs, get_logger
from shoal.workers.plan import Before, Plan, Report, StartReason
from shoal.workers.process import COMMAND, Start, WorkerProcess
from shoal.workers.restarts import Restarts

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What the supervisor obeys; blocked by who starts it, until it is ready to."""

_MARGIN_S: Final = 5.0  # for a worker to end beyond the time its requests have
_LOOK_EVERY_S: Final = 1.0  # at ages and memory
_AT_MOST_EVERY_S: Final = 60.0  # a worker is replaced for what it has grown
_ENDS: Final = 16  # of workers that are remembered: for those that look into what they left
_STACKS_S: Final = 5.0  # for a worker that hangs to write its threads' stacks

log = get_logger("shoal.workers")


@dataclass(slots=True)
class Seat:
    """The place of one worker. worker: who serves there; None until a dead one's successor starts.
    successor: who is about to take over. before: who served there. leaks: who wants to be replaced,
    and why."""

    number: int
    restarts: Restarts = field(default_factory=Restarts)
    worker: WorkerProcess | None = None
    successor: WorkerProcess | None = None
    restart: asyncio.TimerHandle | None = None
    before: Before = field(default_factory=Before)
    leaks: tuple[WorkerProcess, str] | None = None


class Supervisor:
    """plan_fd: the file with the plan, which workers read too. command: what runs a worker."""

    def __init__(self, plan: Plan, plan_fd: int, command: tuple[str, ...] = COMMAND) -> None:
        self._plan = plan
        self._plan_fd = plan_fd
        self._command = command
        self._shares = Shares(plan.shares, plan.rows)
        self._seats = [Seat(number) for number in range(1, plan.workers + 1)]
        self._alive: list[WorkerProcess] = []
        self._serving = False  # every worker was ready once
        self._stop = asyncio.Event()
        self._replacing = asyncio.Lock()
        self._ends: dict[int, str] = {}  # of workers that died: how, by their numbers
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: tuple[str, int] | None = None  # why nothing can start, and the status

    async def run(self) -> int:
        """Until SIGTERM, SIGINT, or a worker that says that none can start; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._replace_all)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for seat in self._seats:
            self._fill(seat)
        if self._plan.hang_timeout_s:
            self._begin(self._end_who_hangs())
        self._begin(self._replace_in_time())
        await self._stop.wait()
        in_order = await self._end()
        if self._refused is not None:
            message, status = self._refused
            sys.stderr.write(f"error: {' '.join(message.split())}\n")
            return status
        log.info("ended")
        return 0 if in_order else 1

    # --- starting -------------------------------------------------------------------------------

    def _fill(self, seat: Seat) -> None:
        """Start a worker for a place without one; later, if it cannot be now."""
        seat.restart = None
        seat.worker = self._start(seat, seat.before)
        if seat.worker is None:
            self._fill_later(seat, seat.restarts.wait_s(0.0))

    def _fill_later(self, seat: Seat, wait_s: float) -> None:
        seat.restart = asyncio.get_running_loop().call_later(wait_s, self._fill, seat)

    def _start(self, seat: Seat, before: Before) -> WorkerProcess | None:
        """None: the system gives no process for it, which was logged."""
        taken = {worker.row for worker in self._alive}
        start = Start(
            self._plan, self._plan_fd, seat.number,
            row=next(row for row in range(self._plan.rows) if row not in taken),
            # Another each time: a successor serves beside the one it replaces.
            instance_id=f"{self._plan.name}-{secrets.token_hex(3)}-w{seat.number}",
            before=msgspec.structs.replace(before, ends=self._ends),
            command=self._command,
        )
        try:
            worker = WorkerProcess(start, self._heard)
        except OSError as error:
            log.error("worker cannot be started", worker=seat.number,
                      error=error.strerror or str(error))
            return None
        self._alive.append(worker)
        log.debug("worker started", worker=seat.number, pid=worker.pid)
        return worker

    def _heard(self, worker: WorkerProcess, report: Report) -> None:
        seat = self._seats[worker.number - 1]
        if report.state == "leaking" and worker is seat.worker:
            seat.leaks = worker, report.message
        if report.state != "ready" or self._serving:
            return
        if all(seat.worker is not None and seat.worker.is_ready for seat in self._seats):
            self._serving = True
            plan = self._plan
            log.info(
                "serving", workers=plan.workers, models=report.models,
                http=f"http://{plan.http_address}", grpc=plan.grpc_address,
                management=f"http://{plan.management_address}",
                budget_bytes=plan.budget_bytes * plan.workers, formats=report.formats,
                version=shoal.__version__,
            )

    # --- deaths ---------------------------------------------------------------------------------

    def _reap(self) -> None:
        for worker in [each for each in self._alive if each.reap()]:
            self._alive.remove(worker)
            self._shares.clear(worker.row)
            self._ended(self._seats[worker.number - 1], worker)

    def _ended(self, seat: Seat, worker: WorkerProcess) -> None:
        if self._stop.is_set() or worker is seat.successor:
            return
        if worker is not seat.worker:
            log.info("replaced worker ended", worker=seat.number, pid=worker.pid)
            return
        seat.worker = None
        if worker.failure is not None and not self._serving:
            self._refused = (worker.failure, worker.status or 1)
            self._stop.set()
        elif seat.successor is None:
            self._restart(seat, worker)
        else:
            log.warning("worker ended while its successor starts", **_about(worker))

    def _restart(self, seat: Seat, dead: WorkerProcess) -> None:
        wait_s = seat.restarts.wait_s(dead.age_s)
        seat.before = seat.before.then(
            "hung" if dead.hangs else "died",
            f"process {dead.pid}, which was worker {seat.number}, {dead.how}")
        self._ends[dead.pid] = dead.how
        for oldest in list(self._ends)[:-_ENDS]:
            del self._ends[oldest]
        log.warning("worker ended and is started again", in_s=wait_s, **_about(dead))
        self._fill_later(seat, wait_s)

    async def _end_who_hangs(self) -> None:
        """Silence is counted by looks: what passes while this process stands still is none."""
        look_s = self._plan.beat_s
        while True:
            await asyncio.sleep(look_s)
            for worker in self._alive:
                silent_s = worker.count_silence(look_s)
                if silent_s > self._plan.hang_timeout_s and not worker.hangs:
                    worker.hangs = True
                    self._begin(self._abort(worker, silent_s))

    async def _abort(self, worker: WorkerProcess, silent_s: float) -> None:
        """End it, after it wrote what its threads do; it is started again like any that died."""
        log.error(
            "worker hangs and is ended; the stacks of its threads follow, if it can write them",
            worker=worker.number, pid=worker.pid, silent_s=round(silent_s),
        )
        worker.send(signal.SIGABRT)
        if not await _have_ended([worker], _STACKS_S):
            worker.send(signal.SIGKILL)

    # --- replacing ------------------------------------------------------------------------------

    def _replace_all(self) -> None:
        self._begin(self._replace_one_by_one())

    async def _replace_one_by_one(self) -> None:
        async with self._replacing:
            log.info("replacing all workers, one after another")
            for seat in self._seats:
                if not await self._replace(seat, "asked", "somebody sent SIGHUP"):
                    return
            log.info("all workers are replaced")

    async def _replace_in_time(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for seat in self._seats:
                worker, wanted = seat.worker, self._wants_another(seat)
                if worker is None or wanted is None:
                    continue
                reason, why = wanted
                log.info(
                    "replacing a worker", worker=seat.number, pid=worker.pid, reason=reason,
                    why=why, age_s=round(worker.age_s), grown_bytes=worker.grown_bytes,
                )
                async with self._replacing:
                    replaced = seat.worker is not worker or await self._replace(seat, reason, why)
                if not replaced:
                    await asyncio.sleep(_AT_MOST_EVERY_S)

    def _wants_another(self, seat: Seat) -> tuple[StartReason, str] | None:
        """Why another worker should have the place, with a sentence; None: none should."""
        plan, worker = self._plan, seat.worker
        if worker is None or not worker.is_ready:
            return None
        if seat.leaks is not None and seat.leaks[0] is worker:
            return "leak", seat.leaks[1]
        if plan.max_age_s and worker.age_s > plan.max_age_s:
            return "age", f"it is older than {plan.max_age_s:g} s (recycle.max_age_s)"
        if plan.max_growth and worker.age_s > _AT_MOST_EVERY_S and (
            worker.grown_bytes > plan.max_growth + plan.budget_bytes
        ):
            return "growth", (
                f"it grew by {worker.grown_bytes:,} bytes since it was ready: its budget for "
                f"models and {plan.max_growth:,} bytes more (recycle.max_growth)")
        return None

    async def _replace(self, seat: Seat, reason: StartReason, why: str) -> bool:
        """Start a successor, and end the worker once it is ready. Did the successor start?"""
        old = seat.worker
        if old is None:
            return True  # it is being started anew as it is
        before = seat.before.then(
            reason, f"process {old.pid}, which was worker {seat.number}, is replaced: {why}")
        seat.successor = successor = self._start(seat, before)
        if successor is None:
            return False
        await successor.settled.wait()
        seat.successor = None
        if successor.ended.is_set():  # perhaps after it was ready
            log.error(
                "the successor of a worker could not start", stays=seat.worker is not None,
                **_about(successor),
            )
            if seat.worker is None:
                self._restart(seat, successor)
            return False
        seat.worker, seat.before = successor, before
        await self._retire([old])
        return True

    # --- ending ---------------------------------------------------------------------------------

    def _ask_to_stop(self) -> None:
        if not self._stop.is_set():
            log.info("shutting down", workers=len(self._alive))
            self._stop.set()

    async def _end(self) -> bool:
        """Did all end by themselves?"""
        for task in self._tasks:
            task.cancel()
        for seat in self._seats:
            if seat.restart is not None:
                seat.restart.cancel()
        in_order = await self._retire(list(self._alive))
        shutil.rmtree(self._plan.run_dir, ignore_errors=True)
        return in_order

    async def _retire(self, workers: list[WorkerProcess]) -> bool:
        """Let them finish what they have begun; kill who takes longer than that may take. Did all
        end by themselves?"""
        for worker in workers:
            worker.send(signal.SIGTERM)
        if await _have_ended(workers, self._plan.shutdown_timeout_s + _MARGIN_S):
            return True
        for worker in workers:
            if not worker.ended.is_set():
                log.error("worker does not end and is killed", worker=worker.number, pid=worker.pid)
                worker.send(signal.SIGKILL)
        await _have_ended(workers, None)
        return False

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the supervisor failed at a task", exc_info=error)


async def _have_ended(workers: list[WorkerProcess], within_s: float | None) -> bool:
    """Waits for it. within_s: None, as long as it takes."""
    try:
        async with asyncio.timeout(within_s):
            for worker in workers:
                await worker.ended.wait()
    except TimeoutError:
        return False
    return True


def _about(worker: WorkerProcess) -> dict[str, object]:
    about: dict[str, object] = {
        "worker": worker.number, "pid": worker.pid, "how": worker.how,
        "age_s": round(worker.age_s, 1),
    }
    return about if worker.failure is None else about | {"error": worker.failure}


def supervise(plan: Plan, plan_fd: int, command: tuple[str, ...] = COMMAND) -> int:
    """The exit status of the whole."""
    configure_logs(plan.log_level, plan.log_format)

    async def run() -> int:
        return await Supervisor(plan, plan_fd, command).run()

    return asyncio.run(run())
