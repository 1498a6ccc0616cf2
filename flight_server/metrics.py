"""Prometheus metrics of one server, in a registry of its own.

What happens is counted as it happens; what is, is looked up when it is asked for. The values of labels come
from fixed sets or from the configuration, never from what a client sends.
"""

from __future__ import annotations

import platform
import re
from collections import Counter as Counts
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from flight_server import __version__
from flight_server.readiness import Probe, Readiness
from lakehouse.config import Settings
from lakehouse.engine.running import ABANDONED, StatementRecord, StatementState
from lakehouse.engine.usage import EngineUsage, usage
from lakehouse.errors import LakehouseError
from lakehouse.runtime import Lakehouse
from lakehouse.storage import BreakerState

OK = "OK"
OTHER = "other"
_USAGE_SECONDS = 2.0
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LIMIT_SECTIONS = ("limits", "session", "engine", "auth", "server")
_SETTING = re.compile(rf"\b({'|'.join(_LIMIT_SECTIONS)})\.(\w+)")


class Metrics:
    """Counts what one server does.

    Args:
        lakehouse: Whose state is looked up.
        readiness: Whose findings are told.
    """

    def __init__(self, lakehouse: Lakehouse, readiness: Readiness) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._codes = frozenset({OK, ABANDONED, *_codes(LakehouseError)})
        self._limits = frozenset(_limit_names())
        self._statements = self._counter(
            "statements", "Statements that ended, whichever way.", "kind", "state", "code"
        )
        self._statement_seconds = self._histogram(
            "statement_duration_seconds", "Time that statements ran, without waiting.", "kind"
        )
        self._queue_seconds = self._histogram(
            "statement_queue_seconds", "Time that statements waited for their turn."
        )
        self._rows = self._counter("statement_rows", "Rows that statements gave or changed.", "kind")
        self._bytes = self._counter("statement_bytes", "Bytes of the results of statements.", "kind")
        self._rpcs = self._counter("rpcs", "Calls that ended, by error code.", "method", "code")
        self._rpc_seconds = self._histogram(
            "rpc_duration_seconds", "Time that calls took, streams to their end.", "method"
        )
        self._authentications = self._counter(
            "authentication_attempts", "Attempts to authenticate.", "method", "outcome"
        )
        self._refusals = self._counter("limit_refusals", "Calls refused at a limit, by setting.", "limit")
        self._storage = self._counter(
            "storage_operations",
            "Requests to object storage, without the engine's reads of data files.",
            "operation",
            "outcome",
        )
        self._storage_seconds = self._histogram(
            "storage_operation_duration_seconds", "Time that requests to object storage took.", "operation"
        )
        self.registry.register(_State(lakehouse, readiness))
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> _Children:
        return _Children(Counter(f"lakehouse_{name}", text, labels, registry=self.registry))

    def _histogram(self, name: str, text: str, *labels: str) -> _Children:
        found = Histogram(f"lakehouse_{name}", text, labels, buckets=_SECONDS, registry=self.registry)
        return _Children(found)

    # -- what happens -------------------------------------------------------------------------------

    def statement(self, record: StatementRecord) -> None:
        """A statement has ended."""
        kind = record.kind or OTHER
        self._statements[kind, record.state.value, self._known_code(record.code)].inc()
        self._statement_seconds[kind,].observe(record.run_s)
        self._queue_seconds[()].observe(record.queue_s)
        if record.rows:
            self._rows[kind,].inc(record.rows)
        if record.bytes:
            self._bytes[kind,].inc(record.bytes)

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """A call has ended.

        Args:
            method: As the protocol spells it, ``DoGet``.
            code: Of the error, or ``OK``.
            seconds: From its start to its end, of a stream to the end of the stream.
        """
        self._rpcs[method, self._known_code(code)].inc()
        self._rpc_seconds[method,].observe(seconds)

    def authentication(self, method: str, outcome: str) -> None:
        """Somebody has tried to authenticate. Both texts are from the server's own fixed sets."""
        self._authentications[method, outcome].inc()

    def refusal(self, error: LakehouseError) -> None:
        """A call was refused at a limit; its message names the setting."""
        self._refusals[self.limit_of(error),].inc()

    def limit_of(self, error: LakehouseError) -> str:
        """The setting at whose value a call was refused, or ``other``."""
        named = (".".join(found) for found in _SETTING.findall(f"{error.hint} {error.message}"))
        return next((name for name in named if name in self._limits), OTHER)

    def storage(self, operation: str, outcome: str, seconds: float) -> None:
        """A request to object storage has been answered."""
        self._storage[operation, outcome].inc()
        self._storage_seconds[operation,].observe(seconds)

    def _known_code(self, code: str) -> str:
        return code if code in self._codes else OTHER if code else OK

    # -- what is told -------------------------------------------------------------------------------

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Every metric in the form that an ``Accept`` header asks for, and its media type."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind


class _Children(dict[tuple[str, ...], Any]):
    """The series of a metric by the values of its labels.

    The library's own look-up makes up for most of the cost of counting, so it is done once for each.
    """

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> Any:
        child = self[labels] = self._metric.labels(*labels) if labels else self._metric
        return child


class _State(Collector):
    """What is the case at the moment."""

    def __init__(self, lakehouse: Lakehouse, readiness: Readiness) -> None:
        self._lakehouse = lakehouse
        self._readiness = readiness
        self._used: EngineUsage | None = None
        # An engine that does not answer holds up one thread, and no scrape for long.
        self._usage = Probe("usage", self._measure, _USAGE_SECONDS, kept_s=0.0)
        self._build = {
            "version": __version__,
            "duckdb": version("duckdb"),
            "pyarrow": pa.__version__,
            "python": platform.python_version(),
        }

    def collect(self) -> Iterator[Metric]:
        lakehouse = self._lakehouse
        yield _gauge("build_info", "Versions of the server and its parts; always 1.", 1, self._build)
        yield _gauge("uptime_seconds", "Time since the server was started.", lakehouse.uptime_seconds())
        states = Counts(record.state for record in lakehouse.engine.running.records())
        yield _gauge("statements_running", "Statements at work.", states[StatementState.RUNNING])
        yield _gauge(
            "statements_queued", "Statements that wait for their turn.", states[StatementState.QUEUED]
        )
        yield _gauge(
            "statements_planned",
            "Statements that are being planned or wait to be fetched.",
            states[StatementState.PLANNED],
        )
        sessions = lakehouse.sessions.sessions()
        yield _gauge("sessions", "Open sessions.", len(sessions))
        open_transactions = sum(len(session.transactions) for session in sessions)
        yield _gauge("transactions", "Open transactions.", open_transactions)
        yield _gauge("arrow_memory_bytes", "Memory that Arrow holds.", pa.total_allocated_bytes())
        yield from self._limits()
        yield from self._cache()
        yield from self._buckets()
        yield from self._journal()
        yield from self._vectors()
        yield from self._engine()
        yield from self._health()

    def _limits(self) -> Iterator[Metric]:
        settings = self._lakehouse.settings
        yield _gauge(
            "statements_limit", "Setting limits.concurrent_statements.", settings.limits.concurrent_statements
        )
        yield _gauge("sessions_limit", "Setting session.max_sessions.", settings.session.max_sessions)

    def _cache(self) -> Iterator[Metric]:
        found = self._lakehouse.cache.statistics()
        yield _gauge("cache_bytes", "Size of the object cache.", found.bytes)
        yield _gauge("cache_limit_bytes", "Setting cache.max_bytes.", found.max_bytes)
        yield _gauge("cache_in_use_bytes", "Part of the object cache that cannot go.", found.in_use_bytes)
        for name, text, value in (
            ("hits", "Reads of data files that were in the object cache.", found.hits + found.shared),
            ("misses", "Reads of data files that had to be fetched.", found.misses),
            ("fetched_bytes", "Bytes fetched into the object cache.", found.fetched_bytes),
            ("evictions", "Data files removed from the object cache.", found.evicted),
        ):
            yield CounterMetricFamily(f"lakehouse_cache_{name}", text, value=value)

    def _buckets(self) -> Iterator[Metric]:
        buckets = self._lakehouse.buckets
        suspended = GaugeMetricFamily(
            "lakehouse_bucket_suspended",
            "1 while requests to a bucket fail at once, because its store has not been answering.",
            labels=["bucket"],
        )
        for name in buckets:
            suspended.add_metric([name], float(buckets.state(name) is not BreakerState.CLOSED))
        yield suspended
        rescued = CounterMetricFamily(
            "lakehouse_rescue_reads",
            "Objects and lists of objects of a bucket that the rescue bucket gave in its place.",
            labels=["bucket"],
        )
        for name in buckets:
            rescued.add_metric([name], buckets.use(name).rescued)
        yield rescued

    def _journal(self) -> Iterator[Metric]:
        told = self._lakehouse.events.statistics()
        if told is None:
            return
        yield _gauge("journal_waiting", "Events of changes that are not durable yet.", told.waiting)
        for name, text, value in (
            ("events", "Events of changes that were recorded.", told.appended),
            ("dropped", "Events of changes that storage did not take in time, and are lost.", told.dropped),
            ("failures", "Attempts to store events of changes that failed.", told.failures),
            (
                "written_bytes",
                "Bytes of events written, merged ones again.",
                told.written_bytes + told.merged_bytes,
            ),
        ):
            yield CounterMetricFamily(f"lakehouse_journal_{name}", text, value=value)

    def _vectors(self) -> Iterator[Metric]:
        indexes = self._lakehouse.vectors
        yield _gauge("vectors_memory_bytes", "Vector indexes in memory.", indexes.loader.statistics().bytes)
        active = GaugeMetricFamily(
            "lakehouse_profile_active", "1 while a profile may be used.", labels=["profile"]
        )
        memory = GaugeMetricFamily(
            "lakehouse_profile_memory_bytes", "Vector indexes of a profile in memory.", labels=["profile"]
        )
        searches = CounterMetricFamily(
            "lakehouse_profile_searches", "Searches of vector indexes with a profile.", labels=["profile"]
        )
        profiles = indexes.profiles
        for name in () if profiles is None else profiles.configured:
            assert profiles is not None
            active.add_metric([name], float(name not in profiles.known.inactive))
            memory.add_metric([name], sum(profiles.loaded(name).values()))
            searches.add_metric([name], profiles.searches[name])
        yield from (active, memory, searches)

    def _engine(self) -> Iterator[Metric]:
        used = self._used if self._usage.finding().ok else None
        if used is None:
            return  # /readyz tells why; what is not known is left out
        parts = GaugeMetricFamily(
            "lakehouse_engine_memory_bytes", "Memory of the SQL engine, by use.", labels=["part"]
        )
        for part, amount in sorted(used.memory.items()):
            parts.add_metric([part], amount)
        yield parts
        yield _gauge(
            "engine_memory_limit_bytes", "Memory at which the engine begins to spill.", used.memory_limit
        )
        yield _gauge("engine_spilled_bytes", "What the engine has on disk for want of memory.", used.spilled)

    def _measure(self) -> None:
        self._used = usage(self._lakehouse.engine)

    def _health(self) -> Iterator[Metric]:
        healthy = GaugeMetricFamily(
            "lakehouse_healthy", "1 where a check of /readyz finds nothing wrong.", labels=["check"]
        )
        for found in self._readiness.findings():
            if found.name in self._readiness.names:
                healthy.add_metric([found.name], float(found.ok))
        yield healthy
        yield _gauge(
            "draining", "1 while the server stops and takes no new work.", float(self._readiness.draining)
        )


def _gauge(name: str, text: str, value: float, labels: dict[str, str] | None = None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"lakehouse_{name}", text, labels=list(labels or ()))
    family.add_metric(list((labels or {}).values()), value)
    return family


def _codes(kind: type[LakehouseError]) -> Iterator[str]:
    yield kind.code
    for special in kind.__subclasses__():
        yield from _codes(special)


def _limit_names() -> Iterator[str]:
    for section in _LIMIT_SECTIONS:
        model = Settings.model_fields[section].annotation
        for name in getattr(model, "model_fields", ()):
            yield f"{section}.{name}"
