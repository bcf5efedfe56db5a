"""What the roles of a core share: the time, the view of the mesh, what goes out.

Roles speak to other instances and to each other in the same messages; those to the own instance
wait in `inbox` until the role at work is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from shoal.core.options import Options
from shoal.core.view import View
from shoal.domain import commands as do
from shoal.domain.mesh import Message
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.reasons import Reason

PORTION: Final = 2_000  # a message has at most 16 MiB, and what is told of one copy a few KiB

Item = TypeVar("Item")

# What is declared under a name, as this instance's replica of the registry has it.
Records: TypeAlias = Callable[[str], ModelRecord | None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """`code`: of a class in `domain.errors`. `retry_after_s`: when it may go better."""

    code: str
    message: str
    retry_after_s: float | None = None


class Desk:
    """now: seconds on any clock that never goes back. out: commands of the event at hand."""

    def __init__(self, options: Options, records: Records) -> None:
        self.options: Final = options
        self.records: Final = records
        self.view: Final = View(options)
        self.now = 0.0
        self.out: list[do.Command] = []
        self.inbox: Final[deque[Message]] = deque()

    @property
    def me(self) -> str:
        return self.view.me

    def tell(self, instance: str, message: Message) -> None:
        if instance == self.view.me:
            self.inbox.append(message)
        else:
            self.out.append(do.Tell(instance, message))

    def note(self, kind: str, revision: Revision, reason: Reason, message: str) -> None:
        self.out.append(do.Note(kind, revision.model, revision.id, reason, message))

    def refuse(self, ticket: int, refusal: Refusal) -> None:
        self.out.append(
            do.Refuse(ticket, refusal.code, refusal.message, refusal.retry_after_s)
        )


def portions(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """So many together as one message takes, however long their names."""
    for at in range(0, len(items), PORTION):
        yield tuple(items[at : at + PORTION])


def model_of(revision: str) -> str:
    """The model of a revision, by its id."""
    return revision.rpartition("@")[0]


def version_of(revision: str) -> int:
    return int(revision.rpartition("@")[2].partition("-")[0])
