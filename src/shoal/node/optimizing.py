"""Decides when a copy looks for a faster form of its model, and remembers what came of it.

Once requests have come that are worth it, so that loading stays quick and models that are hardly
asked cost nothing; one at a time, on a thread. Must not know what such a form is: see
`ports.Optimizable`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Literal

from shoal.domain.model import Revision
from shoal.node.journal import Journal
from shoal.node.live import LiveCopy
from shoal.node.machine import trim_heap
from shoal.node.threads import run_apart
from shoal.observability.logs import get_logger
from shoal.ports import Optimizable, Outcome

AFTER_USES: Final = 10  # it takes a tenth of a second or more, and gains 0.1 ms or more a request
KEPT_REFUSALS: Final = 10_000

log = get_logger("shoal.node")


class Optimizer:
    """default: for models that do not say. from_thread: runs a function on the loop soon."""

    def __init__(self, default: Literal["auto", "off"], journal: Journal,
                 from_thread: Callable[..., None]) -> None:
        self._default = default
        self._journal = journal
        self._from_thread = from_thread
        self._outcomes: dict[str, Outcome] = {}  # by revision, of copies in memory
        self._refusals: dict[str, Outcome] = {}  # by digest, since a reload changes nothing
        self._asked: set[str] = set()  # revisions of copies in memory
        self._waiting: deque[LiveCopy] = deque()
        self._busy = False

    def wants(self, revision: Revision) -> bool:
        return (revision.optimize or self._default) == "auto"

    def is_to_come(self, copy: LiveCopy) -> bool:
        """Whether it will be looked for, and was not yet."""
        return (
            self.wants(copy.revision) and copy.revision.id not in self._outcomes
            and isinstance(copy.model, Optimizable)
        )

    def outcome(self, revision: str) -> Outcome | None:
        """What came of it for the copy in memory; None: nothing yet."""
        return self._outcomes.get(revision)

    def consider(self, copy: LiveCopy) -> None:
        """Called for copies that were used."""
        revision = copy.revision
        if copy.uses < AFTER_USES or not self.wants(revision) or revision.id in self._asked:
            return
        if not isinstance(copy.model, Optimizable):
            return
        self._asked.add(revision.id)
        refusal = self._refusals.get(revision.artifact_digest)
        if refusal is not None:
            self._outcomes[revision.id] = refusal
            return
        self._waiting.append(copy)
        self._start_next()

    def forget(self, copy: LiveCopy) -> None:
        """It leaves memory."""
        self._outcomes.pop(copy.revision.id, None)
        self._asked.discard(copy.revision.id)
        if copy in self._waiting:
            self._waiting.remove(copy)

    def _start_next(self) -> None:
        if self._busy or not self._waiting:
            return
        self._busy = True
        copy = self._waiting.popleft()
        model = copy.model
        assert isinstance(model, Optimizable)
        copy.retain()  # it must not be closed meanwhile
        run_apart("shoal-optimize", model.optimize).add_done_callback(
            lambda done: self._from_thread(self._ended, copy, done)
        )

    def _ended(self, copy: LiveCopy, done: Future[Outcome]) -> None:
        self._busy = False
        revision = copy.revision
        error = done.exception()
        if error is None:
            outcome = done.result()
        else:  # a defect of ours, or of a runtime; the model answers as before
            log.error("looking for a faster form failed", model=revision.model, exc_info=error)
            outcome = Outcome(None, f"not converted: {type(error).__name__}: {error}")
        if outcome.platform is not None:
            copy.platform = outcome.platform
        elif len(self._refusals) < KEPT_REFUSALS:
            self._refusals[revision.artifact_digest] = outcome
        if revision.id in self._asked:  # else it leaves
            self._outcomes[revision.id] = outcome
        self._journal.note(
            "optimized" if outcome.platform is not None else "not_optimized",
            f"model {revision.model!r} version {revision.version}: {outcome.note}",
            model=revision.model, revision=revision.id,
        )
        copy.release()
        run_apart("shoal-trim", trim_heap)  # converting leaves much behind
        self._start_next()
