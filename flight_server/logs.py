"""Logging: one JSON object a line on standard output, or readable text on a terminal.

Every module logs through ``structlog.get_logger()``; what libraries send to :mod:`logging` and
:mod:`warnings` comes out in the same form.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TextIO

import structlog
from pydantic import SecretStr
from structlog.typing import Processor

from lakehouse.config import LogSettings
from lakehouse.telemetry import call_fields, current

if TYPE_CHECKING:
    from lakehouse.engine.running import StatementRecord

log = structlog.get_logger(__name__)

_SECRET_KEY = re.compile(
    r"(^|[_.-])(authorization|password|passwd|secret|token|credentials?|api_?key)$", re.IGNORECASE
)
_REDACTED = "[redacted]"
_SQL_CHARACTERS = 4000
_LEADING_KEYS = ("timestamp", "level", "event")


def configure_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send the log of the whole process to one stream, in one form.

    May be called again; the last call holds. Values under keys such as ``password`` or ``token``
    are replaced before anything is written, and tracebacks never show local variables.

    Args:
        settings: The section ``log`` of the configuration.
        stream: Where to write; standard output by default.
    """
    out = sys.stdout if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_text = settings.format == "text" or (settings.format == "auto" and out.isatty())
    shared = _shared_processors()
    final = _final_processors(as_text, colors=out.isatty())
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    _route_standard_library(out, level, shared, final)


def is_logged(level: int) -> bool:
    """Whether lines of that severity are written, to be asked before a line is put together."""
    return logging.getLogger().isEnabledFor(level)


def add_call(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that adds what is known of the call that a line belongs to."""
    for key, value in (call_fields.get() or {}).items():
        event.setdefault(key, value)
    span = current()
    if span is not None:
        event.setdefault("trace_id", span.trace_id)
        event.setdefault("span_id", span.span_id)
    return event


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that hides values whose key or type says that they are secret."""
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: object, value: Any) -> Any:
    if isinstance(value, SecretStr) or (isinstance(key, str) and _SECRET_KEY.search(key)):
        return _REDACTED
    if isinstance(value, Mapping):
        return {name: _redacted(name, inner) for name, inner in value.items()}
    return value


def _lead_with_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {key: event[key] for key in _LEADING_KEYS if key in event} | dict(event)


def _shared_processors() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        add_call,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]


def _final_processors(as_text: bool, colors: bool) -> list[Processor]:
    if as_text:
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return [
        structlog.processors.format_exc_info,
        _lead_with_event,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


def _route_standard_library(out: TextIO, level: int, shared: list[Processor], final: list[Processor]) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


class SlowStatementLog:
    """Logs statements that ran for long, with where the time went.

    Args:
        seconds: How long is long; 0 logs none.
        statement_text: Gives a statement's text in the form in which it may be kept.
    """

    def __init__(self, seconds: float, statement_text: Callable[[str], str] = str) -> None:
        self._seconds = seconds
        self._statement_text = statement_text

    def __call__(self, record: StatementRecord) -> None:
        """A statement has ended."""
        if not self._seconds or record.run_s < self._seconds:
            return
        sql = self._statement_text(record.sql)
        log.warning(
            "slow statement",
            statement=record.id,
            request_id=record.request_id,
            session=record.session_id,
            principal=record.principal,
            **({"trace_id": record.trace_id} if record.trace_id else {}),
            kind=record.kind,
            code=record.code or "OK",
            run_seconds=round(record.run_s, 3),
            queue_seconds=round(record.queue_s, 3),
            rows=record.rows,
            bytes=record.bytes,
            sql=sql if len(sql) <= _SQL_CHARACTERS else sql[:_SQL_CHARACTERS] + " …",
            profile=record.profile,
        )
