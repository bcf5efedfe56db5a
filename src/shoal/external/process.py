"""The process of a model server: started, heard, measured, ended, with all that it starts.

It never outlives Shoal: `guard` sees to that. It is never started again: that is for who made it.
Must not know what the server is asked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from shoal.external import guard
from shoal.isolation.lines import Lines
from shoal.isolation.process import in_words
from shoal.observability.logs import get_logger
from shoal.observability.processes import tree_bytes

_LAST_LINES: Final = 3  # that an error quotes
_LINES_A_SPAN: Final = 50
_SPAN_S: Final = 10.0
_LAST_WORDS_S: Final = 1.0

log = get_logger("shoal.external")


class ServerProcess:
    """Runs from its making on, which raises OSError. For any thread. niceness: as nice(1) counts,
    in all. started_at: by `time.monotonic`."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str],
                 niceness: int) -> None:
        self.name = name
        self._said = _Said(name)
        self._why = ""  # it was ended by us
        self._ended = threading.Event()
        self.started_at = time.monotonic()
        held, self._held = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(guard.__file__)), *command],
                stdin=held, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(environ),
                bufsize=0, start_new_session=True,  # what a terminal sends is for Shoal alone
            )
        except BaseException:
            os.close(self._held)
            raise
        finally:
            os.close(held)
        with contextlib.suppress(OSError):  # it has ended, or may not be made less nice
            os.setpriority(os.PRIO_PGRP, self._process.pid, niceness)
        threading.Thread(target=self._watch, name=f"shoal-external {name}", daemon=True).start()
        threading.Thread(target=self._hear, name=f"shoal-external {name}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the leader of its group."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    @property
    def how(self) -> str:
        """How it ended, and the last that it said."""
        how = self._why or in_words(self._process.poll())
        said = self.said
        return f"{how}; the last it said was: {said}" if said else how

    @property
    def said(self) -> str:
        """Its last lines."""
        return self._said.last()

    def wait(self, timeout_s: float = _LAST_WORDS_S) -> bool:
        """Has it ended, at the latest after `timeout_s`?"""
        return self._ended.wait(timeout_s)

    def memory_bytes(self) -> int:
        """What it and all that it started have in RAM."""
        return 0 if self.has_ended else tree_bytes(self.pid)

    def stop(self, grace_s: float) -> None:
        """Ask it to end, and end it after `grace_s`."""
        self._because("was ended")
        self._signal(signal.SIGTERM)
        if not self._ended.wait(grace_s):
            self.kill("was ended")

    def kill(self, why: str) -> None:
        """End it at once, with all that it started. why: in words that follow its name."""
        self._because(why)
        self._signal(signal.SIGKILL)
        self._ended.wait(_LAST_WORDS_S)

    def _because(self, why: str) -> None:
        if not self.has_ended:
            self._why = self._why or why

    def _signal(self, number: signal.Signals) -> None:
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _watch(self) -> None:
        # Its number is its own until it was waited for: so first end what it left behind.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._held)
        self._said.ended.wait(_LAST_WORDS_S)
        self._ended.set()

    def _hear(self) -> None:
        output = self._process.stdout
        assert output is not None
        with output:
            lines = Lines(self._said.add)
            while data := os.read(output.fileno(), 64 * 1024):
                lines.add(data)
            lines.end()
        self._said.ended.set()


class _Said:
    """What a server says, into the log, not more than people could read."""

    def __init__(self, name: str) -> None:
        self.ended = threading.Event()
        self._name = name
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._since = 0.0
        self._count = 0

    def last(self) -> str:
        return " | ".join(line[:300] for line in tuple(self._last))

    def add(self, text: str) -> None:
        self._last.append(text)
        now = time.monotonic()
        if now - self._since >= _SPAN_S:
            if self._count > _LINES_A_SPAN:
                log.warning("lines of a model server were left out", runtime=self._name,
                            lines=self._count - _LINES_A_SPAN)
            self._since, self._count = now, 0
        self._count += 1
        if self._count <= _LINES_A_SPAN:
            log.info("a model server says", runtime=self._name, line=text)
