"""Registers and unregisters what a file lists, a page a call, and shows how far it is.

The whole file is checked before anything is sent. What the server refuses is told with its line;
unless failures are to be passed over, nothing is sent behind them. Either way what was registered
stays, and the same file may be given again: what is there already is left as it is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias

import msgspec

from shoal.cli import model_lists, render
from shoal.cli.files import STANDARD_INPUT, opened, shown
from shoal.cli.model_lists import Line
from shoal.domain.errors import InvalidSpecification, ShoalError, family

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.client import Client
    from shoal.client.calls import Call
    from shoal.domain.views import BatchOutcome

PAGE: Final = 1_000  # models a call: the progress moves several times a second
_SHOWN: Final = 20  # failures told one by one
_QUIET_STEP: Final = 100_000  # models between two lines, where there is no terminal


@dataclass(frozen=True, slots=True)
class Wish:
    """file: `-` for standard input. keep_going: pass over what is wrong or fails."""

    file: Path
    keep_going: bool = False
    as_json: bool = False


@dataclass(slots=True)
class _Tally:
    """What became of all so far. code: of the first failure, as in `domain.errors`."""

    file: str
    done: int = 0
    unchanged: int = 0
    failed: int = 0
    code: str | None = None
    failures: list[dict[str, object]] = field(default_factory=list)

    def fail(self, line: Line, code: str, message: str) -> None:
        self.failed += 1
        self.code = self.code or code
        if self.failed > _SHOWN:
            return
        self.failures.append(
            {"line": line.number, "name": line.name, "code": code, "error": message}
        )
        about = f"model {line.name!r}"
        said = message if not line.name or message.startswith(about) else f"{about}: {message}"
        render.warn(f"{self.file}:{line.number}: {said}")


Lines: TypeAlias = Callable[[], Iterator[Line]]
Ask: TypeAlias = "Callable[[list[Line]], Call[BatchOutcome]]"
Advance: TypeAlias = Callable[[int], None]


def register_from(client: Client, wish: Wish, *, read: bool) -> None:
    """Register every model that the file lists; relative paths are meant from its folder. Ends the
    command with the code of the first failure, if there was one."""
    from shoal.client import calls

    base = Path.cwd() if wish.file == STANDARD_INPUT else wish.file.absolute().parent
    with opened(wish.file) as source:
        tally = _run(
            client, wish, lambda: model_lists.specifications(source, wish.file, base),
            lambda lines: calls.register_batch([line.body for line in lines], read=read),
            "registering",
        )
    _tell(tally, wish, "registered", "already registered just so")


def unregister_from(client: Client, wish: Wish) -> None:
    """Unregister every model that the file names. Ends as `register_from`."""
    from shoal.client import calls

    with opened(wish.file) as source:
        tally = _run(
            client, wish, lambda: _names(source, wish.file),
            lambda lines: calls.unregister_batch([line.name for line in lines]),
            "unregistering",
        )
    _tell(tally, wish, "unregistered", "not registered")


def _names(source: BinaryIO, path: Path) -> Iterator[Line]:
    return model_lists.names(source, path)


def _run(client: Client, wish: Wish, lines: Lines, ask: Ask, what: str) -> _Tally:
    tally = _Tally(shown(wish.file))
    right = _check(lines, tally)
    if tally.failed and not wish.keep_going:
        return tally
    with _progress(what, len(right)) as advance:
        page: list[Line] = []
        for line in lines():
            if right.get(line.name) == line.number:
                page.append(line)
            if len(page) == PAGE:
                if not _send(client, ask, page, tally) and not wish.keep_going:
                    return tally
                advance(len(page))
                page = []
        if page:
            _send(client, ask, page, tally)
            advance(len(page))
    return tally


def _check(lines: Lines, tally: _Tally) -> dict[str, int]:
    """Tell all that is wrong with the file itself. The lines of those that are right, by name."""
    right: dict[str, int] = {}
    for line in lines():
        if line.problem is not None:
            tally.fail(line, InvalidSpecification.code, line.problem)
            continue
        first = right.setdefault(line.name, line.number)
        if first != line.number:
            tally.fail(line, InvalidSpecification.code,
                       f"the name stands in line {first} already; keep one of them")
    return right


def _send(client: Client, ask: Ask, page: list[Line], tally: _Tally) -> bool:
    """Whether all of the page went well."""
    outcome = client.ask(ask(page))
    for line, result in zip(page, outcome.results, strict=True):
        if not result.ok:
            tally.fail(line, result.code or ShoalError.code, result.error or "the server refused")
    tally.done += outcome.registered
    tally.unchanged += outcome.unchanged
    return outcome.failed == 0


def _tell(tally: _Tally, wish: Wish, done: str, unchanged: str) -> None:
    if tally.failed > _SHOWN:
        render.warn(f"and {tally.failed - _SHOWN:,} more")
    if wish.as_json:
        render.write_json(msgspec.json.encode({
            done: tally.done, "unchanged": tally.unchanged, "failed": tally.failed,
            "failures": tally.failures,
        }))
    else:
        render.say(f"{done} {tally.done:,}; {tally.unchanged:,} {unchanged}; "
                   f"{tally.failed:,} failed")
    if tally.failed:
        kind = next((e for e in family(ShoalError) if e.code == tally.code), ShoalError)
        raise kind(f"{tally.file}: {tally.failed:,} failed" + (
            "" if wish.keep_going else ", and nothing was sent behind them; correct the file and "
            "give it again, or pass over what fails with --keep-going"))


@contextmanager
def _progress(what: str, total: int) -> Iterator[Advance]:
    """A bar on a terminal's standard error; elsewhere a line now and then."""
    console = render.err()
    if console.is_terminal:
        with _bar(console, what, total) as advance:
            yield advance
        return
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if done // _QUIET_STEP != before // _QUIET_STEP:
            sys.stderr.write(f"{what}: {done:,} of {total:,}\n")
            sys.stderr.flush()

    yield tell


@contextmanager
def _bar(console: Console, what: str, total: int) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )
    started, done = time.monotonic(), 0
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(count: int) -> None:
            nonlocal done
            done += count
            rate = done / max(time.monotonic() - started, 1e-3)
            bar.update(task, advance=count, rate=f"{rate:,.0f}/s")

        yield advance
