"""Turns everything that is logged, by us or by libraries, into one kind of line.

For people (`console`) or machines (`json`: one object a line, with time, level, event, logger and
whatever was said beside). Knows no settings: the caller passes them.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from typing import Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from shoal.domain.errors import ShoalError

_FIRST: Final = ("time", "level", "event", "logger")
_CHATTY: Final = ("asyncio", "httpcore", "httpx2", "urllib3", "uvicorn.access", "watchfiles")


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger called `name`. May be taken before `configure_logs`; follows every later one.

    Events are lower-case sentences without data; data goes beside: `log.info("model loaded",
    model=name, took_s=took_s)`.
    """
    return cast(FilteringBoundLogger, structlog.stdlib.get_logger(name))


def configure_logs(
    level: Literal["debug", "info", "warning", "error"],
    format: Literal["auto", "console", "json"],  # noqa: A002 - the setting's name
    stream: TextIO | None = None,
    worker: int | None = None,
) -> None:
    """Write what is at least `level` to `stream` (None: standard error). `auto` is `console` on a
    terminal, else `json`. May be called again; the last call counts. worker: the number that every
    line carries, of a process among several that write to the same place.

    Libraries that chat at `info` are heard from `warning` on, unless `level` is `debug`.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    console = format == "console" or (format == "auto" and terminal)
    number = logging.getLevelNamesMapping()[level.upper()]
    shared = _shared_processors(worker)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # loggers are taken at import, before this call
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:-1], structlog.stdlib.ExtraAdder(), shared[-1]],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_for_people(terminal) if console else _for_machines()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)


def _shared_processors(worker: int | None) -> list[Processor]:
    """What every line goes through, ours and those of the standard library's loggers."""

    def name_worker(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["worker"] = worker
        return event

    return [
        *([name_worker] if worker is not None else []),
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _tell_expected_errors,
    ]


def _for_people(terminal: bool) -> list[Processor]:
    return [
        _keep_to_one_line,
        structlog.dev.ConsoleRenderer(
            colors=terminal and not os.environ.get("NO_COLOR"),
            timestamp_key="time",
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
        ),
    ]


def _for_machines() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        _arrange,
        structlog.processors.JSONRenderer(default=repr),
    ]


def _tell_expected_errors(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """An error of our tree explains itself: its message and code instead of a traceback."""
    given = event.get("exc_info")
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    if isinstance(error, ShoalError):
        del event["exc_info"]
        event.setdefault("error", error.message)
        event.setdefault("code", error.code)
    return event


def _keep_to_one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """No text from outside can pretend to be a line of its own, or steer the terminal."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("exception", "stack") and not value.isprintable():
            event[key] = _escape(value.rstrip()) if key == "event" else _Quoted(value)
    return event


def _escape(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class _Quoted:
    """Shown as Python would write the text; the renderer quotes texts of its own choice only."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _arrange(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The fields of every line first, and only numbers that JSON has."""
    fields = {key: event.pop(key) for key in _FIRST if key in event} | dict(event)
    return {
        key: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in fields.items()
    }
