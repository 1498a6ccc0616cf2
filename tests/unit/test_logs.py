from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from flight_server.logs import configure_logging
from lakehouse.config import LogSettings

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def previous_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, show = root.handlers, root.level, warnings.showwarning
    yield
    logging.captureWarnings(False)
    warnings.showwarning = show
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_json_object_that_begins_with_time_level_and_event(out: io.StringIO) -> None:
    configure_logging(LogSettings(), out)
    log.info("called", rpc="DoGet", text="two\nlines, ä")
    assert out.getvalue().count("\n") == 1
    (line,) = lines(out)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["rpc"]) == ("info", "called", "DoGet")
    assert line["text"] == "two\nlines, ä"


@pytest.mark.filterwarnings("default")
def test_libraries_log_in_the_same_form(out: io.StringIO) -> None:
    configure_logging(LogSettings(format="json"), out)
    logging.getLogger("pyiceberg.table").warning("%d files", 3)
    warnings.warn("careful", UserWarning, stacklevel=1)
    first, second = lines(out)
    assert (first["event"], first["logger"], first["level"]) == ("3 files", "pyiceberg.table", "warning")
    assert "careful" in second["event"]


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_holds_for_own_and_foreign_lines(out: io.StringIO, level: Any, count: int) -> None:
    configure_logging(LogSettings(level=level), out)
    for logger in (log, logging.getLogger("library")):
        logger.debug("a")
        logger.info("a")
        logger.warning("a")
        logger.error("a")
    assert len(lines(out)) == 2 * count


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_never_written(out: io.StringIO, form: Any) -> None:
    configure_logging(LogSettings(format=form), out)
    log.info(
        "connected",
        password="hunter2",
        api_key="hunter2",
        Authorization="Bearer hunter2",
        secret=SecretStr("hunter2"),
        headers={"authorization": "hunter2", "nested": {"access_token": "hunter2"}},
        source=SecretStr("hunter2"),
        result_tokens=7,
    )
    assert "hunter2" not in out.getvalue()
    assert "7" in out.getvalue()


@pytest.mark.parametrize("form", ["json", "text"])
def test_tracebacks_are_written_without_variables(out: io.StringIO, form: Any) -> None:
    configure_logging(LogSettings(format=form), out)
    code = "hunter" + str(2)
    try:
        raise LookupError("no such thing")
    except LookupError:
        log.exception("failed")
        logging.getLogger("library").exception("failed too")
    assert code not in out.getvalue()
    assert out.getvalue().count("LookupError: no such thing") == 2


def test_the_context_of_a_call_is_part_of_its_lines(out: io.StringIO) -> None:
    configure_logging(LogSettings(), out)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("inside")
    log.info("outside")
    assert [line.get("request_id") for line in lines(out)] == ["r1", None]


def test_a_terminal_gets_text(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "isatty", lambda: True)
    configure_logging(LogSettings(format="auto"), out)
    log.info("called", rpc="DoGet")
    assert "called" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_configuring_again_replaces_the_stream(out: io.StringIO) -> None:
    configure_logging(LogSettings(), out)
    other = io.StringIO()
    configure_logging(LogSettings(), other)
    log.info("own")
    logging.getLogger("library").info("foreign")
    assert out.getvalue() == ""
    assert [line["event"] for line in lines(other)] == ["own", "foreign"]
