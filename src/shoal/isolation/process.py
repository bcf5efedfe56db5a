"""The process of one model as the server sees it: started, asked, heard, ended.

It is never started again: that is for who made it. How it ended is told in one sentence. Must not
know runtimes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import LifoQueue
from typing import TYPE_CHECKING, Final

import msgspec

from shoal.domain.errors import ModelFailed
from shoal.isolation.channel import Channel, Ended, Late, Packed, Received
from shoal.isolation.lines import Lines
from shoal.isolation.memory import bound_memory
from shoal.isolation.messages import (
    Answer,
    Close,
    Failure,
    Load,
    Loaded,
    Open,
    Predict,
    Reply,
    encode,
    read_reply,
)
from shoal.isolation.tensors import take
from shoal.isolation.variables import variables
from shoal.observability.oom import killed_since, oom_kills
from shoal.observability.processes import ending, resident_bytes

if TYPE_CHECKING:
    from shoal.domain.model import JsonValue
    from shoal.ports import Arrays

_LAST_READS: Final = 64  # of what a dead process's children may go on to print
_LAST_WORDS_S: Final = 1.0  # for what a process printed before it died
_CLOSE_S: Final = 5.0  # for a model's own `close`

# Linux ends a process with the *thread* that started it (prctl(2), PR_SET_PDEATHSIG), and loads run
# on threads that end. So one that lasts as long as the server starts them all.
_starter: Final = ThreadPoolExecutor(1, "shoal-isolated-start")


@dataclass(frozen=True, slots=True)
class Start:
    """command: the Python that runs it, with its flags. foreign: it is not this one's. threads: of
    a framework, unless the environment says. niceness: as nice(1) counts, in all."""

    model: str
    command: tuple[str, ...]
    foreign: bool
    threads: int
    niceness: int
    start_timeout_s: float
    call_timeout_s: float


class ProcessFailed(Exception):
    """The process did not answer, and has ended. `how`: in words that follow its name. `killed`:
    see `Process.was_killed`."""

    def __init__(self, how: str, *, killed: bool = False) -> None:
        super().__init__(how)
        self.how = how
        self.killed = killed


class Process:
    """Runs from its making on, which raises ProcessFailed. For any thread.

    started_at, ended_at: by `time.monotonic`. is_news: for who made it: its end is not known yet.

    on_line: called with each line that it prints, on a thread of this process's own.
    """

    def __init__(self, start: Start, on_line: Callable[[str], None]) -> None:
        self._start = start
        self._on_line = on_line
        self._line = ""  # the last that said something
        self._fatal = ""  # Python's own words about a crash
        self._why = ""  # it was ended by us
        self._ended = threading.Event()
        self._is_loaded = self._is_closed = False
        self._most_calls = 0
        self._opening = threading.Lock()
        self._channels: list[Channel] = []
        self._free: LifoQueue[Channel | None] = LifoQueue()  # None: one that is not open yet
        self._oom_kills = oom_kills()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _starter.submit(self._popen, theirs.fileno()).result()
            except OSError as error:
                ours.close()
                raise ProcessFailed(f"could not be started: {error}") from error
        self._control = self._took(Channel(ours))  # for all but predictions
        self.started_at = self.ended_at = time.monotonic()
        self.is_news = True
        self._pidfd = os.pidfd_open(self._process.pid)
        threading.Thread(
            target=self._watch, name=f"shoal-isolated {start.model}", daemon=True).start()

    def _popen(self, descriptor: int) -> subprocess.Popen[bytes]:
        start = self._start
        process = subprocess.Popen(
            [*start.command, str(descriptor), str(os.getpid())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=variables(os.environ, start.foreign, start.threads), pass_fds=(descriptor,),
            bufsize=0,
            start_new_session=True,  # what a terminal sends is for the server alone
        )
        with contextlib.suppress(OSError):  # it has ended, or may not be made less nice
            os.setpriority(os.PRIO_PROCESS, process.pid, start.niceness)
        return process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def resident_bytes(self) -> int:
        return 0 if self.has_ended else resident_bytes(self.pid)

    def bound_memory(self, room_bytes: int) -> None:
        """It may grow by so much from now on."""
        with contextlib.suppress(OSError):  # it has ended
            bound_memory(self.pid, room_bytes)

    # --- what it is asked -----------------------------------------------------------------------

    def load(self, load: Load, concurrency: int | None) -> Loaded:
        """concurrency: calls at once, if not as many as the model takes by itself. To be called
        once, before all others. Raises what the runtime raises, and ProcessFailed."""
        self._control.limit_waits(self._start.start_timeout_s)
        reply, _ = self._ask(self._control, self._control.pack({}, lambda _: encode(load)))
        if isinstance(reply, Failure):
            raise reply.error()
        assert isinstance(reply, Loaded)
        self._is_loaded = True
        self._control.limit_waits(self._start.call_timeout_s)
        self._most_calls = max(concurrency or reply.max_concurrency, 1)
        for _ in range(self._most_calls):
            self._free.put(None)
        return reply

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...]) -> Arrays:
        """Raises what the model raises, and ProcessFailed."""
        channel = self._free.get()
        try:
            if channel is None:
                channel = self._open()
            reply, received = self._ask(channel, channel.pack(inputs, lambda pieces: encode(
                Predict(pieces, dict(parameters), outputs))))
        finally:
            self._free.put(channel)
        if isinstance(reply, Failure):
            raise reply.error()
        try:
            assert isinstance(reply, Answer)
            return take(reply.pieces, received.body)
        except ValueError as error:
            raise ModelFailed(f"model {self._start.model!r}: {error}") from error

    def _open(self) -> Channel:
        """Another channel."""
        ours, theirs = socket.socketpair()
        with theirs, self._opening:
            channel = self._took(Channel(ours))
            channel.limit_waits(self._start.call_timeout_s)
            try:
                self._ask(self._control, self._control.pack({}, lambda _: encode(Open())),
                          theirs.fileno())
            except ProcessFailed:
                channel.close()
                raise
        return channel

    def _ask(self, channel: Channel, packed: Packed, descriptor: int | None = None
             ) -> tuple[Reply, Received]:
        try:
            channel.send(packed, descriptor)
            received = channel.receive()
            return read_reply(received.header), received
        except Late:
            limit_s, setting = (
                (self._start.call_timeout_s, "call_timeout_s") if self._is_loaded
                else (self._start.start_timeout_s, "start_timeout_s"))
            self.kill(f"did not answer within {limit_s:g} s (isolation.{setting}) and was ended")
        except Ended:
            self.kill("")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.kill(f"answered what cannot be read ({error}) and was ended")
        self._ended.wait(_LAST_WORDS_S)
        raise ProcessFailed(self.how, killed=self.was_killed)

    # --- its end --------------------------------------------------------------------------------

    @property
    def how(self) -> str:
        """How it ended, and the last it said."""
        how = self._why or in_words(self._process.poll(), for_memory=killed_since(self._oom_kills))
        last = self._fatal or self._line
        return f"{how}; the last it said was: {last}" if last else how

    @property
    def was_killed(self) -> bool:
        """By SIGKILL, and not by this class: as the kernel does when memory runs out."""
        return not self._why and self._process.poll() == -signal.SIGKILL

    def kill(self, why: str) -> None:
        """End it at once, with all that it started. why: in words that follow its name; empty: as
        it ended by itself."""
        if why and not self._why and not self.has_ended:
            self._why = why
        if not why:
            # Its socket closes a little before it has ended: let that tell how.
            self._ended.wait(_LAST_WORDS_S)
        self._process.kill()

    def close(self) -> None:
        """Let the model close, then end it. Waits for calls under way. May be called again."""
        if self._is_closed:
            return
        self._is_closed = True
        idle = [self._free.get() for _ in range(self._most_calls)]
        self._control.limit_waits(_CLOSE_S)
        with contextlib.suppress(ProcessFailed):
            if not self.has_ended:
                self._ask(self._control, self._control.pack({}, lambda _: encode(Close())))
        self._ended.wait(_LAST_WORDS_S)
        self.kill("was closed")
        self._ended.wait(_CLOSE_S)
        for channel in self._channels:
            channel.close()
        for _ in idle:
            self._free.put(None)  # who comes late finds it ended

    def _took(self, channel: Channel) -> Channel:
        self._channels.append(channel)
        return channel

    def _watch(self) -> None:
        """Hear it until it has ended, then end all that waits for it."""
        assert self._process.stdout is not None
        try:
            self._hear(self._process.stdout.fileno())
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what it started and left behind
            self._process.wait()
            self.ended_at = time.monotonic()
            self._ended.set()
            for channel in self._channels:
                channel.hang_up()
            self._process.stdout.close()
            os.close(self._pidfd)

    def _hear(self, output: int) -> None:
        """What it prints, line by line, until it has ended."""
        lines = Lines(self._heard)
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        reads_left = _LAST_READS
        while reads_left:
            ready = dict(poll.poll())
            reads_left -= self._pidfd in ready
            if output in ready:
                data = os.read(output, 64 * 1024)
                if not data:
                    poll.unregister(output)
                lines.add(data)
            elif self._pidfd in ready:
                break
        lines.end()

    def _heard(self, text: str) -> None:
        if text.startswith("Fatal Python error"):
            self._fatal = text[:300]
        self._line = text[:300]
        self._on_line(text)


def in_words(status: int | None, *, for_memory: bool = False) -> str:
    """How a process ended. status: as `subprocess` counts it; None: it only hung up. for_memory:
    the kernel killed somebody meanwhile."""
    if status is None:
        return "hung up"
    said = ending(status)
    if -status != signal.SIGKILL:
        return said
    return f"{said}: " + (
        "the kernel found no memory left" if for_memory else "by somebody, or for want of memory")
