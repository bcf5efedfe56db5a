"""The journal: the last things that happened, in pages, by model, and in the log."""

from __future__ import annotations

import pytest
import structlog
from tests.storage_fakes import HeldClock

from shoal.domain.views import EventPage
from shoal.node.journal import Journal

FIRST = 1_000_000_000  # microseconds


@pytest.fixture
def journal() -> Journal:
    return Journal(HeldClock(wall_s=1000.0), length=5)


def numbers(*pages: EventPage) -> list[int]:
    return [event.seq - FIRST + 1 for page in pages for event in page.events]


def note_some(journal: Journal, count: int) -> None:
    for number in range(1, count + 1):
        journal.note("loaded", f"number {number}", model="odd" if number % 2 else "even")


def test_events_are_numbered_and_dated(journal: Journal) -> None:
    journal.note("loaded", "it is there", model="m", revision="m@1-0", reason="requested")
    (event,) = journal.page(0, 10, None).events
    assert (event.seq, event.time) == (FIRST, 1000.0)
    assert (event.kind, event.message) == ("loaded", "it is there")
    assert (event.model, event.revision, event.reason) == ("m", "m@1-0", "requested")


def test_pages_follow_each_other_without_gap_or_repetition(journal: Journal) -> None:
    note_some(journal, 5)
    first = journal.page(0, 2, None)
    assert numbers(first) == [1, 2]
    second = journal.page(first.next, 2, None)
    third = journal.page(second.next, 2, None)
    assert numbers(second, third) == [3, 4, 5]
    assert journal.page(third.next, 2, None).events == []


def test_who_has_read_all_is_told_only_what_is_new(journal: Journal) -> None:
    note_some(journal, 2)
    seen = journal.page(0, 10, None).next
    assert journal.page(seen, 10, None).events == []
    journal.note("loaded", "news")
    assert [event.message for event in journal.page(seen, 10, None).events] == ["news"]


def test_the_oldest_are_forgotten_first(journal: Journal) -> None:
    note_some(journal, 12)
    assert numbers(journal.page(0, 10, None)) == [8, 9, 10, 11, 12]
    assert numbers(journal.page(FIRST + 8, 10, None)) == [10, 11, 12]
    assert journal.page(FIRST + 50, 10, None).events == [], "of an instance whose clock is ahead"


def test_numbers_follow_the_clock_but_never_go_back() -> None:
    clock = HeldClock(wall_s=1000.0)
    journal = Journal(clock)
    for wall_s in (1000.0, 1000.5, 1000.2, 1001.0):
        clock.wall_s = wall_s
        journal.note("loaded", "it is there")
    assert numbers(journal.page(0, 10, None)) == [1, 500_001, 500_002, 1_000_001]


def test_events_of_one_model(journal: Journal) -> None:
    note_some(journal, 5)
    page = journal.page(0, 2, "odd")
    assert numbers(page) == [1, 3]
    assert numbers(journal.page(page.next, 2, "odd")) == [5]
    assert [event.seq - FIRST + 1 for event in journal.last_of("odd", 2)] == [3, 5]
    assert journal.last_of("nobody", 2) == []


def test_an_empty_journal_has_an_empty_page(journal: Journal) -> None:
    page = journal.page(0, 10, None)
    assert (page.events, page.next) == ([], 0)


@pytest.mark.parametrize(
    ("kind", "level"),
    [("load_failed", "warning"), ("registry_problem", "warning"), ("folder_problem", "warning"),
     ("loaded", "debug"), ("evicted", "debug"), ("revision_switched", "info")],
)
def test_trouble_is_logged_as_a_warning_and_routine_only_when_asked_for(
    journal: Journal, kind: str, level: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        journal.note(kind, "said", model="m")
    assert [(entry["log_level"], entry["event"], entry["model"]) for entry in logs] == [
        (level, "said", "m")
    ]
