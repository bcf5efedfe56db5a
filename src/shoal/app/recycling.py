"""What becomes of a process that leaks memory: its supervisor replaces it, it ends for who started
it to start it again, or it only says so.

Must not know how a leak is told from what models need.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from shoal.domain.mesh import MemberState
from shoal.node.instance import Instance
from shoal.workers.inherited import Inherited
from shoal.workers.plan import Report

EXIT_STATUS: Final = 75
"""EX_TEMPFAIL of sysexits.h: also who starts a process again only when it failed does so."""


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Recycling:
    """exits: whether a process without a supervisor ends. end: ends it in order.

    exit_status: of the process, when it ends in order.
    """

    def __init__(
        self, instance: Instance, inherited: Inherited | None, exits: bool,
        end: Callable[[], None] = _end,
    ) -> None:
        self.exit_status = 0
        self._instance = instance
        self._inherited = inherited
        self._exits = exits
        self._end = end
        self._told = False
        self._ends = False

    def look(self, leak: str | None) -> None:
        """Once a second. leak: what leaks, in words that follow "the process"; None: nothing."""
        if leak is None:
            self._instance.leak = None
            self._told = False
            return
        self._instance.leak = f"this process {leak}; {self._way_out}"
        if not self._told:
            self._told = True
            self._instance.journal.note("leaking", self._instance.leak)
            if self._inherited is not None:
                self._inherited.channel.tell(Report(state="leaking", message=f"it {leak}"))
        if self._exits and self._inherited is None and not self._ends and self._is_its_turn:
            self._ends = True
            self.exit_status = EXIT_STATUS
            self._instance.journal.note(
                "recycled", "this process ends in order, since it leaks (recycle.exit)")
            self._end()

    @property
    def _way_out(self) -> str:
        if self._inherited is not None:
            return "a fresh one takes its place"
        if self._exits:
            return "it ends soon, for who started it to start it again (recycle.exit)"
        return (
            "restart it, or have that done: with several workers (workers), a supervisor of one "
            "(recycle.supervise), or an end for who started it (recycle.exit)")

    @property
    def _is_its_turn(self) -> bool:
        """Others of its mesh that leave or start are waited for, so that somebody stays."""
        view = self._instance.core.view
        return all(each.state is MemberState.READY for each in view.members.values()
                   if each.id != view.me)
