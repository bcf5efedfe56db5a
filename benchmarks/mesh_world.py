"""A mesh of real instances on one machine: each a `shoal serve` of its own, with its own data
folder, on one registry. Started, found, asked how it does, killed, ended.

Whoever looks polls what the instances say of themselves; nothing here waits for a fixed time. Knows
no load.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import httpx2
import msgspec

from benchmarks import density
from shoal.client import Client, Retry
from shoal.domain.errors import ShoalError
from shoal.domain.views import EventPage, EventView

START_S: Final = 60.0
ENOUGH_S: Final = 30.0
END_S: Final = 60.0
POLL_S: Final = 0.02
PAGE: Final = 1_000

Flag = str | Path


def until(true: Callable[[], object], what: str, within_s: float = ENOUGH_S) -> None:
    """Come back as soon as `true()` is. Raises RuntimeError after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)


class Node:
    """An instance. `url`, `grpc`, `management`: once it `serves`. client: of this instance alone,
    which tries nothing twice."""

    client: Client
    url = grpc = management = ""

    def __init__(
        self, name: str, data_dir: Path, flags: Sequence[Flag], prefix: Sequence[str] = ()
    ) -> None:
        """prefix: of the command, such as what runs it in a network of its own."""
        self.name = name
        self.flags = flags
        self.prefix = prefix
        self._log = data_dir.with_name(f"{data_dir.name}.log")
        self._http: httpx2.Client | None = None
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *prefix, str(Path(sys.executable).with_name("shoal")), "serve",
                    "--http-port", "0", "--grpc-port", "0", "--management-port", "0",
                    "--data-dir", str(data_dir), "--log-format", "json",
                    "--instance-id", name, *map(str, flags),
                ],
                stdout=log, stderr=log,
            )

    # --- its life -------------------------------------------------------------------------------

    def serves(self) -> None:
        """Come back when it does. Raises RuntimeError with what it said instead."""
        if self.url:
            return
        until(lambda: self.log("serving") or self.process.poll() is not None,
              f"{self.name} serves", START_S)
        said = self.log("serving")
        if not said:
            raise RuntimeError(f"{self.name} does not start: {self._log.read_text()[-2000:]}")
        self.url, self.management = str(said[-1]["http"]), str(said[-1]["management"])
        self.grpc = str(said[-1]["grpc"])
        self.client = Client(self.url, management=self.management, retry=Retry(attempts=1))
        self._http = httpx2.Client(base_url=self.url, timeout=60)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """As `kill -9`."""
        self.process.kill()
        self.process.wait(END_S)

    def leave(self) -> None:
        """Begin to end, as orchestrators would have it."""
        self.process.send_signal(signal.SIGTERM)

    def ends(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self.process.wait(END_S)

    def close(self) -> None:
        """End it, whatever its state."""
        if self._http is not None:
            self.client.close()
            self._http.close()
            self._http = None
        if self.runs:
            with suppress(OSError):
                self.process.send_signal(signal.SIGCONT)
            self.leave()
        try:
            self.ends()
        except subprocess.TimeoutExpired:
            self.kill()

    # --- how it does ----------------------------------------------------------------------------

    def infer(self, model: str, body: bytes) -> httpx2.Response:
        assert self._http is not None
        return self._http.post(f"/v2/models/{model}/infer", content=body)

    def log(self, event: str = "") -> list[dict[str, object]]:
        """What it logged: all, or under that name."""
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                said = json.loads(line)
                if not event or said.get("event") == event:
                    found.append(said)
        return found

    def metric(self, name: str, labels: str = "") -> float:
        """The sum over all lines of a metric whose labels contain `labels`; 0 without any."""
        total = 0.0
        for line in httpx2.get(f"{self.management}/metrics", timeout=30).text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and labels in line:
                total += float(line.rpartition(" ")[2])
        return total

    def sees(self) -> dict[str, str]:
        """States of the instances that it can reach, by name."""
        try:
            return {each.id: each.state for each in self.client.instances()
                    if each.unreachable_since is None}
        except ShoalError:
            return {}

    def events(self, kind: str, model: str | None = None) -> list[EventView]:
        """Its own of that kind, the oldest first; at most the last thousands."""
        found: list[EventView] = []
        after = 0
        while True:
            asked: dict[str, str | int] = {
                "after": after, "limit": PAGE, "instance": self.name,
                **({"model": model} if model else {}),
            }
            answer = httpx2.get(f"{self.management}/api/v1/events", params=asked, timeout=30)
            page = msgspec.json.decode(answer.content, type=EventPage)
            found += [each for each in page.events if each.kind == kind]
            if len(page.events) < PAGE:
                return found
            after = page.next


class World:
    """Instances `a`, `b`, `c`, … on the registry `url`. flags: of all of them. `nodes`: those that
    were started and not dropped."""

    def __init__(self, folder: Path, url: str, *flags: Flag) -> None:
        self.folder = folder
        self.url = url
        self.flags = ("--trust-locations", folder / "models", *flags)
        self.nodes: list[Node] = []
        self._started = 0
        (folder / "models").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for node in self.nodes:
            if node.runs:
                node.process.kill()
            node.close()

    def start(self, *each: Sequence[Flag], meet: bool = True) -> list[Node]:
        """One instance for each sequence of flags, all at once; come back when all serve and
        (`meet`) all see each other ready."""
        fresh = [self.spawn(*flags) for flags in each]
        for node in fresh:
            node.serves()
        if meet:
            self.meet()
        return fresh

    def spawn(self, *flags: Flag, prefix: Sequence[str] = ()) -> Node:
        """One instance, which starts."""
        name = _name(self._started)
        self._started += 1
        node = Node(
            name, self.folder / name, ("--registry-url", self.url, *self.flags, *flags), prefix)
        self.nodes.append(node)
        return node

    def respawn(self, node: Node) -> Node:
        """The same anew, after its end: under its name, with its data."""
        node.close()
        fresh = Node(node.name, self.folder / node.name, node.flags, node.prefix)
        self.nodes[self.nodes.index(node)] = fresh
        return fresh

    def drop(self, node: Node) -> None:
        """It ended, or is to: no longer one of `nodes`."""
        self.nodes.remove(node)
        node.close()

    def meet(self) -> None:
        """Until all that run see each other, and nobody else."""
        running = [node for node in self.nodes if node.runs]
        wanted = dict.fromkeys((node.name for node in running), "ready")
        for node in running:
            until(lambda node=node: node.sees() == wanted,  # type: ignore[misc]
                  f"{node.name} sees {', '.join(wanted)}")

    # --- models ---------------------------------------------------------------------------------

    def make_models(self, count: int) -> list[str]:
        """Files of tiny ONNX models that all answer differently; their names."""
        return density.make_models(self.folder / "models", count)

    def register(self, names: Iterable[str], **fields: object) -> None:
        """Declare them through the first instance; come back when all instances know them."""
        names = list(names)
        first = next(node for node in self.nodes if node.runs)
        specs = [{**density.spec(self.folder / "models", name), **fields} for name in names]
        for result in first.client.register_many(specs):
            if not result.ok:
                raise RuntimeError(f"{result.name} cannot be registered: {result.error}")
        self.known(names)

    def known(self, names: Sequence[str]) -> None:
        """Until all instances know them."""
        for node in self.nodes:
            if node.runs and names:
                until(lambda node=node: _knows(node, names),  # type: ignore[misc]
                      f"{node.name} knows {len(names)} models")

    def holders(self, model: str) -> set[str]:
        """Instances with a ready copy, as any that runs says."""
        node = next(node for node in self.nodes if node.runs)
        return {each.instance for each in node.client.model(model).where
                if each.state == "ready" and not each.leaving}

    def loads(self, model: str | None = None) -> list[tuple[str, str, float]]:
        """Loads that those that run began: the instance, why, and when (seconds since the epoch).
        """
        return [(node.name, each.reason or "", each.time) for node in self.nodes if node.runs
                for each in node.events("load_started", model)]

    def total(self, metric: str, labels: str = "") -> float:
        """Of all that run."""
        return sum(node.metric(metric, labels) for node in self.nodes if node.runs)


def _knows(node: Node, names: Sequence[str]) -> bool:
    """Bulk registration writes in order; one by one would take a question each."""
    return node.metric("shoal_registered_models") >= len(names) and all(
        httpx2.get(f"{node.url}/v2/models/{name}/ready", timeout=30).status_code == 200
        for name in {names[0], names[-1]}
    )


def _name(number: int) -> str:
    """a, b, … z, a1, b1, …"""
    turn, letter = divmod(number, 26)
    return f"{chr(ord('a') + letter)}{turn or ''}"
