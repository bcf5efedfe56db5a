"""An open loop over the instances of a mesh, in a thread of its own: clients of each instance send
requests at even times, whatever happens, and every failure is counted with its reason.

Each instance has clients of its own, with their own connections, that repeat nothing: what fails,
fails. They only look, as clients that keep connections do, whether one has ended before they use it
again. With `follow`, they watch readiness as load balancers do, and whoever is not ready gets no
new requests. A latency counts from when its request was due. Knows no instance's inside.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final, Self, cast

import uvloop

from benchmarks import flowers
from benchmarks.open_loop import percentile

PATIENCE_S: Final = 30.0  # for an answer
WATCH_S: Final = 0.05  # between looks at an instance's readiness

Check = Callable[[str, bytes], str | None]
"""What is wrong with the body of an answer about a model; None: nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked. models: drawn in this order, again and again. check: of every answer.
    follow: ask only instances that say they are ready. bodies: of requests for some models; `body`:
    of all others."""

    models: Sequence[str]
    rate: float
    check: Check | None = None
    follow: bool = False
    body: bytes = flowers.JSON_BODY
    bodies: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """Of the clients of one instance. answered: when each was due (`monotonic`), and how many
    milliseconds it took. failed: reasons."""

    answered: list[tuple[float, float]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)


class Target:
    """Clients of one instance, and how they fared. url: `http://host:port`."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.address = host, int(port)
        self.tally = Tally()
        self.is_ready = True
        self.idle: list[_Connection] = []

    def take_idle(self) -> _Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if not connection.has_ended():
                return connection
        return None

    def give_up(self) -> None:
        for connection in self.idle:
            connection.close()
        self.idle.clear()


class Load:
    """A context: requests are sent while it lasts, and all are answered, or have failed, when it
    ends. targets: names and URLs of instances; `add` and `remove` change them meanwhile."""

    def __init__(self, plan: Plan, *targets: tuple[str, str]) -> None:
        self._plan = plan
        self._models = cycle(plan.models)
        self._targets = [Target(*each) for each in targets]
        self.all_targets = list(self._targets)
        self._first: dict[str, bytes] = {}
        self._stop = threading.Event()
        self._changed = threading.Lock()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(2 * PATIENCE_S)
        if self._failure is not None:
            raise self._failure

    def plan(self, plan: Plan) -> None:
        """From now on, ask for this."""
        with self._changed:
            self._plan, self._models = plan, cycle(plan.models)

    def add(self, name: str, url: str) -> None:
        with self._changed:
            target = Target(name, url)
            self._targets = [*self._targets, target]
            self.all_targets.append(target)

    def remove(self, name: str) -> None:
        """Its clients ask no more; what they asked goes on."""
        with self._changed:
            self._targets = [each for each in self._targets if each.name != name]

    # --- what came of it ------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        return self.answered + sum(self.failures().values())

    @property
    def answered(self) -> int:
        return sum(len(each.tally.answered) for each in self.all_targets)

    def failures(self, *, without: Sequence[str] = ()) -> Counter[str]:
        """Reasons, of the clients of all instances but these."""
        found: Counter[str] = Counter()
        for each in self.all_targets:
            if each.name not in without:
                found += each.tally.failed
        return found

    def goes_on(self, requests: int, within_s: float = PATIENCE_S) -> None:
        """Come back when so many more are answered. Raises RuntimeError."""
        wanted = self.answered + requests
        deadline = time.monotonic() + within_s
        while self.answered < wanted:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError(
                    f"{wanted - self.answered} of {requests} requests were not answered within "
                    f"{within_s:g} s; failed: {dict(self.failures())}")
            time.sleep(0.01)

    def latencies_ms(
        self, since: float = 0.0, before: float = float("inf"), *, without: Sequence[str] = ()
    ) -> list[float]:
        """Sorted; of requests that were due then (`time.monotonic`)."""
        return sorted(
            took for each in self.all_targets if each.name not in without
            for due, took in list(each.tally.answered) if since <= due < before
        )

    def p(self, share: float, since: float = 0.0, before: float = float("inf")) -> float:
        """A percentile of the latencies, in milliseconds; 0 without any."""
        ordered = self.latencies_ms(since, before)
        return round(percentile(ordered, share), 3) if ordered else 0.0

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._send_for_ever())
        except BaseException as error:  # noqa: BLE001 - raised where the load ends
            self._failure = error

    async def _send_for_ever(self) -> None:
        turn = 0
        due = time.monotonic()
        asking: set[asyncio.Task[None]] = set()
        watching = asyncio.create_task(self._watch())
        while not self._stop.is_set():
            now = time.monotonic()
            with self._changed:
                plan, models, targets = self._plan, self._models, self._targets
            usable = [each for each in targets if each.is_ready or not plan.follow]
            while due <= now:
                if usable:
                    turn += 1
                    task = asyncio.create_task(
                        self._ask(plan, usable[turn % len(usable)], next(models), due))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
                    task.add_done_callback(self._ended)
                due += 1 / plan.rate
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
        if asking:
            await asyncio.wait(asking)
        watching.cancel()
        for target in self.all_targets:
            target.give_up()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error  # a defect of the load itself
            self._stop.set()

    async def _ask(self, plan: Plan, target: Target, model: str, due: float) -> None:
        tally = target.tally
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, body = await _post(
                    target, f"/v2/models/{model}/infer", plan.bodies.get(model, plan.body))
        except TimeoutError:
            tally.failed["no answer in time"] += 1
        except _Broken as error:
            tally.failed[str(error)] += 1
        else:
            check = plan.check or self._is_alike
            wrong = f"{status} {body[:300]!r}" if status != 200 else check(model, body)
            if wrong is None:
                tally.answered.append((due, (time.monotonic() - due) * 1e3))
            else:
                tally.failed[wrong] += 1

    def _is_alike(self, model: str, body: bytes) -> str | None:
        """All answers about a model are the same bytes, whoever answers."""
        first = self._first.setdefault(model, body)
        return None if body == first else f"{model} answers {body[:200]!r} after {first[:200]!r}"

    async def _watch(self) -> None:
        """Look at all, each as often as it answers: one that is slow delays no other."""
        looking: dict[Target, asyncio.Task[None]] = {}
        while True:
            if self._plan.follow:
                for target in list(self._targets):
                    if target not in looking or looking[target].done():
                        looking[target] = asyncio.create_task(_look_at(target))
            await asyncio.sleep(WATCH_S)


async def _look_at(target: Target) -> None:
    target.is_ready = await _is_ready(target)
    if not target.is_ready:
        target.give_up()


async def _is_ready(target: Target) -> bool:
    try:
        async with asyncio.timeout(1.0):
            return (await _request(target, "GET", "/v2/health/ready", b""))[0] == 200
    except (TimeoutError, _Broken):
        return False


class _Broken(Exception):
    """The connection ended without an answer; says how."""


async def _post(target: Target, path: str, body: bytes) -> tuple[int, bytes]:
    return await _request(target, "POST", path, body)


async def _request(target: Target, verb: str, path: str, body: bytes) -> tuple[int, bytes]:
    connection = target.take_idle()
    if connection is None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(target.idle), *target.address)
        except OSError as error:
            raise _Broken(f"no connection: {error.strerror or type(error).__name__}") from None
    try:
        return await connection.ask(
            b"%b %b HTTP/1.1\r\nHost: mesh\r\nContent-Length: %d\r\n\r\n%b"
            % (verb.encode(), path.encode(), len(body), body))
    except asyncio.CancelledError:
        connection.close()
        raise


class _Connection(asyncio.Protocol):
    """One request at a time. idle: where it waits for the next one."""

    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self._got = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        assert self._transport is not None
        self._got = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def has_ended(self) -> bool:
        """Whether the other side has closed it, also if the loop had no time yet to notice."""
        if self._transport is None or self._transport.is_closing():
            return True
        looking = select.poll()
        looking.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(looking.poll(0))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is of no such class

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        fields = dict(_fields(head))
        if len(body) < int(fields.get(b"content-length", b"0")):
            return
        self._answer.set_result((int(head[9:12]), body))
        if fields.get(b"connection") == b"close":
            self.close()
        else:
            self._idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self in self._idle:
            self._idle.remove(self)
        if self._answer is not None and not self._answer.done():
            how = "reset" if error is not None else "closed"
            part = " in the middle of an answer" if self._got else ""
            self._answer.set_exception(_Broken(f"connection {how}{part}"))


def _fields(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        yield name, value.strip()
