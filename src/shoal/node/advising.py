"""Lets a scanner look at what was declared here and can run code, and tells what it says as events.

One artifact after another, in the background, each content once. It is advice: nothing is refused
for it, nor delayed by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from queue import SimpleQueue
from typing import Final

from shoal.domain.errors import ShoalError
from shoal.domain.model import ModelRecord, Revision
from shoal.node.instance import Instance
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings.groups import TrustSettings
from shoal.storage.scanning import Advice, advice_on, check_scanner

_MAX_REMEMBERED: Final = 100_000


def advise(instance: Instance, runtimes: RuntimeRegistry, trust: TrustSettings) -> None:
    """Begin, on the event loop, where the settings want it. Raises RuntimeMissing where the scanner
    is not installed."""
    if trust.scan == "advise":
        check_scanner()
        instance.on_declared = Advising(instance, runtimes).declared


class Advising:
    def __init__(self, instance: Instance, runtimes: RuntimeRegistry) -> None:
        self._loader = instance.loader
        self._runtimes = runtimes
        self._journal = instance.journal
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[Revision] = SimpleQueue()
        self._seen: set[str] = set()  # digests
        # A daemon: nobody waits for advice when the process ends.
        threading.Thread(target=self._work, name="advice", daemon=True).start()

    def declared(self, record: ModelRecord) -> None:
        """By any thread."""
        for revision in record.revisions:
            if revision.artifact_digest in self._seen or len(self._seen) >= _MAX_REMEMBERED:
                continue
            self._seen.add(revision.artifact_digest)
            self._waiting.put(revision)

    def _work(self) -> None:
        while not self._loop.is_closed():
            self._look(self._waiting.get())

    def _look(self, revision: Revision) -> None:
        try:
            with self._loader.files(revision) as path:
                known = revision.format in self._runtimes.formats()  # else a server's
                if known and not self._runtimes.runs_code(revision.format, path):
                    return
                advice = advice_on(path)
        except (ShoalError, OSError) as error:
            advice = Advice(False, f"the scanner could not look at it: {error}")
        if advice is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody is interested
                self._loop.call_soon_threadsafe(self._tell, revision, advice)

    def _tell(self, revision: Revision, advice: Advice) -> None:
        self._journal.note(
            "scan_warning" if advice.dangerous else "scanned",
            f"model {revision.model!r} version {revision.version}: {advice.text}",
            model=revision.model, revision=revision.id)
