"""One kind of line for everything that is logged."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from shoal.domain.errors import NoRoom
from shoal.observability.logs import configure_logs, get_logger

log = get_logger("shoal.test")  # taken at import, as modules do


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_event_and_logger_first(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    log.info("model loaded", model="iris", took_s=0.5)
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "event", "logger", "model", "took_s"]
    assert datetime.fromisoformat(str(line.pop("time"))).tzinfo is not None
    assert line == {
        "level": "info", "event": "model loaded", "logger": "shoal.test", "model": "iris",
        "took_s": 0.5,
    }


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_what_is_severe_enough_is_written(
    stream: io.StringIO, level: str, written: list[str]
) -> None:
    configure_logs(level, "json", stream)  # type: ignore[arg-type]
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("said")
        getattr(logging.getLogger("library"), name)("said")
    assert [line["level"] for line in lines(stream)] == [n for n in written for _ in range(2)]


def test_auto_is_json_where_nobody_watches(stream: io.StringIO) -> None:
    configure_logs("info", "auto", stream)
    log.info("said")
    assert lines(stream)[0]["event"] == "said"


def test_auto_is_for_people_on_a_terminal() -> None:
    terminal = Terminal()
    configure_logs("info", "auto", terminal)
    log.info("said", model="iris")
    assert "said" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_a_file_gets_no_colours_and_a_terminal_only_unless_refused(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    configure_logs("info", "console", stream)
    log.info("said")
    configure_logs("info", "console", coloured)
    log.info("said")
    monkeypatch.setenv("NO_COLOR", "1")
    configure_logs("info", "console", plain)
    log.info("said")
    assert "\x1b[" not in stream.getvalue()
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()


def test_the_last_configuration_counts(stream: io.StringIO) -> None:
    before = io.StringIO()
    configure_logs("info", "json", before)
    configure_logs("info", "json", stream)
    log.info("said")
    assert before.getvalue() == ""
    assert len(lines(stream)) == 1


def test_lines_of_a_request_carry_its_id(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    with bound_contextvars(request_id="r-1"):
        log.info("inside")
        logging.getLogger("library").info("inside too")
    log.info("outside")
    assert [line.get("request_id") for line in lines(stream)] == ["r-1", "r-1", None]


async def test_tasks_do_not_mix_up_their_requests(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)

    async def handle(request_id: str) -> None:
        with bound_contextvars(request_id=request_id):
            await asyncio.sleep(0)
            log.info("handled", expected=request_id)

    await asyncio.gather(*(handle(f"r-{n}") for n in range(5)))
    assert all(line["request_id"] == line["expected"] for line in lines(stream))


def test_libraries_write_the_same_lines(stream: io.StringIO) -> None:
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.setLevel(logging.NOTSET)  # a management server in this process has set it
    uvicorn.addHandler(logging.StreamHandler(io.StringIO()))
    configure_logs("info", "json", stream)
    uvicorn.info("listening on %s:%d", "127.0.0.1", 80, extra={"port": 80})
    (line,) = lines(stream)
    assert (line["event"], line["logger"]) == ("listening on 127.0.0.1:80", "uvicorn.error")
    assert line["port"] == 80
    assert uvicorn.handlers == []


def test_chatty_libraries_are_heard_from_warnings_on(stream: io.StringIO) -> None:
    chatty = logging.getLogger("watchfiles.main")
    configure_logs("info", "json", stream)
    chatty.info("1 change detected")
    chatty.warning("trouble")
    assert [line["event"] for line in lines(stream)] == ["trouble"]
    configure_logs("debug", "json", stream)
    chatty.info("1 change detected")
    assert len(lines(stream)) == 2


def test_warnings_of_libraries_are_logged(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("made by another version", UserWarning, stacklevel=1)
    (line,) = lines(stream)
    assert line["logger"] == "py.warnings"
    assert "made by another version" in str(line["event"])


@pytest.mark.parametrize("form", ["console", "json"])
def test_an_expected_error_has_a_message_and_no_traceback(stream: io.StringIO, form: str) -> None:
    configure_logs("info", form, stream)  # type: ignore[arg-type]
    try:
        raise NoRoom("no room for 'iris': unpin another model")
    except NoRoom as error:
        log.exception("load failed")
        log.error("load failed", exc_info=error)
        logging.getLogger("library").exception("load failed")
    text = stream.getvalue()
    assert text.count("\n") == 3
    assert "Traceback" not in text
    assert text.count("unpin another model") == 3
    assert text.count("NO_ROOM") == 3


def test_an_unexpected_error_keeps_its_traceback(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    try:
        raise KeyError("surprise")
    except KeyError:
        log.exception("load failed")
    (line,) = lines(stream)
    assert "Traceback" in str(line["exception"])
    assert "KeyError: 'surprise'" in str(line["exception"])


def test_text_from_outside_cannot_fake_a_line(stream: io.StringIO) -> None:
    configure_logs("info", "console", stream)
    log.info("refused\nfake", model="a\r\nfake \x1b[31m \u2028 \u202e \udc80 é")
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert r"refused\nfake" in text
    assert r"a\r\nfake \x1b[31m \u2028 \u202e \udc80 é" in text


def test_anything_can_be_written_as_json(stream: io.StringIO) -> None:
    configure_logs("info", "json", stream)
    log.info("odd", a={1}, b=b"\xff", c="\udc80", d=float("nan"), e=ValueError("x\ny"), f="é\n")
    (text,) = stream.getvalue().splitlines()
    assert "NaN" not in text
    line = json.loads(text)
    assert (line["a"], line["d"], line["f"]) == ("{1}", "nan", "é\n")
