"""How answers look: tables and colours on a terminal, plain aligned columns elsewhere, or JSON.

Decides nothing but form. Standard output carries answers, standard error everything else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shoal.domain.views import State

_STYLES: Final = {
    State.READY: "green",
    State.LOADING: "cyan",
    State.QUEUED: "cyan",
    State.COLD: "dim",
    State.FAILED: "red",
    State.UNLOADED: "yellow",
    State.INVALID: "red",
}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Progress(Protocol):
    """What a wait shows."""

    def update(self, text: str) -> None: ...


def out() -> Console:
    """Standard output as it is now: tests and pipes replace it."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    out().print(Text(text, style=style))


def complain(text: str) -> None:
    """One red line on standard error."""
    line = Text("error: ", style="bold red")
    line.append(" ".join(text.split()), style="red")
    err().print(line)


def warn(text: str) -> None:
    err().print(Text(" ".join(text.split()), style="yellow"))


def problems(told: Iterable[str]) -> None:
    """One line each."""
    for problem in told:
        warn(f"problem: {problem}")


def write_json(document: bytes) -> None:
    """One JSON document and a newline, as it came."""
    sys.stdout.write(document.decode() + "\n")
    sys.stdout.flush()


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Columns under `headings`; on a terminal within its width, otherwise whole."""
    console = out()
    if console.is_terminal:
        console.print(rich_table(headings, rows))
        return
    cells = [list(headings), *([_plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


def rich_table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


@contextmanager
def waiting(text: str) -> Iterator[Progress | None]:
    """A spinner on a terminal's standard error; None where there is nobody to see it."""
    console = err()
    if not console.is_terminal:
        yield None
        return
    with console.status(Text(text)) as status:
        yield status


def state(value: State) -> Text:
    return Text(str(value), style=_STYLES[value])


def size(value: int | None) -> str:
    """Bytes, in the largest unit that leaves a whole part."""
    if value is None:
        return "-"
    amount, unit = float(value), 0
    while abs(amount) >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{value} B" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def duration(value_s: float | None) -> str:
    """Seconds as people say them: `12.5 ms`, `3.2 s`, `4 min`, `2 h`, `3 d`."""
    if value_s is None:
        return "-"
    if value_s < 1:
        return f"{value_s * 1000:.3g} ms"
    if value_s < 60:
        return f"{value_s:.3g} s"
    for unit, unit_s, limit in (("min", 60, 7200), ("h", 3600, 172_800)):
        if value_s < limit:
            return f"{value_s / unit_s:.0f} {unit}"
    return f"{value_s / 86_400:.0f} d"


def ago(then: float | None, now: float) -> str:
    """Both in seconds since the epoch; whole seconds."""
    if then is None:
        return "-"
    passed_s = max(0.0, now - then)
    return "now" if passed_s < 1 else f"{duration(float(int(passed_s)))} ago"


def number(value: float) -> str:
    """With thousands apart, and one digit behind the point where that tells something."""
    return f"{value:,.1f}" if 0 < value < 100 and value != int(value) else f"{value:,.0f}"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def first_of(count: int, names: Sequence[str]) -> str:
    """The names of the first of so many."""
    return ", ".join(names) + (", …" if count > len(names) else "")


def _plain(cell: str | Text) -> str:
    return " ".join((cell.plain if isinstance(cell, Text) else cell).split())
