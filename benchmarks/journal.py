"""The event journal: how fast events are logged, how often written, and what changes cost with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks.processes import Line
from lakehouse.clock import SystemClock
from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.journal import EVENTS_SCHEMA
from lakehouse.journal.change_event import ChangeEvent, Origin
from lakehouse.journal.events import stored
from lakehouse.runtime import Lakehouse
from lakehouse.storage import open_local_bucket
from lakehouse.storage.append_log import AppendLog, LogBounds, LogStatistics
from lakehouse.storage.log_encoding import JsonLines, LogEncoding, ParquetEvents

_ENCODINGS: dict[str, Callable[[], LogEncoding]] = {
    "parquet": lambda: ParquetEvents(EVENTS_SCHEMA),
    "json": JsonLines,
}


def journal(directory: Path, quick: bool) -> list[Line]:
    """Events a second and bytes written for them; inserts and changes with the journal and without."""
    return [*_log(directory, quick), *_changes(directory, quick)]


def _log(directory: Path, quick: bool) -> list[Line]:
    events = 50_000 if quick else 500_000
    found: dict[str, tuple[float, float, LogStatistics]] = {}
    for name, encoding in _ENCODINGS.items():
        bucket = open_local_bucket("primary", directory / name)
        # Merging begins after ten batches instead of a hundred, and batches may be merged at once: the most
        # that is ever written.
        target = 4 << 20 if name == "parquet" else 32 << 20
        bounds = LogBounds(
            compact_objects=10, settle_seconds=0, held_events=events, held_bytes=1 << 30, target_bytes=target
        )
        log = AppendLog(bucket, "_log", SystemClock(), bounds, encoding())
        chance = Random(1)
        begun_s, worked_s = time.perf_counter(), time.process_time()
        for number in range(events):
            log.append(partial(_stored, number, chance.getrandbits(128)), 500)
        log.flush()
        durable_s = time.perf_counter() - begun_s
        log.compact()
        found[name] = (time.process_time() - worked_s, durable_s, log.statistics())
        log.close()

    def written(name: str) -> float:
        told = found[name][2]
        return (told.written_bytes + told.merged_bytes) / told.logged_bytes

    worked, durable, told = found["parquet"]
    return [
        Line(
            f"events logged, durable, {told.batches} batches with merging",
            f"{events / durable:,.0f}/s, {worked / events * 1e6:.0f} µs of the processor each",
            f"JSON lines {events / found['json'][1]:,.0f}/s, {found['json'][0] / events * 1e6:.0f} µs",
            found["json"][0] / worked,
            "",
        ),
        Line(
            "bytes written by bytes logged, merging included",
            f"{written('parquet'):.2f}",
            f"JSON lines {written('json'):.2f}",
            written("parquet") / written("json"),
            "bounded",
        ),
    ]


def _stored(number: int, token: int) -> dict[str, Any]:
    """An event as the journal hands it to its log; a hundred of them are of one statement."""
    call = token >> 64 if number % 100 else token
    event = ChangeEvent(
        "update",
        "lake.main.customers",
        "3c9ecf3a-8ab5-4a1e-9fd3-8c57ad8c0e4e",
        "balance",
        token % 100_000 / 100,
        token % 99_991 / 100,
        {"id": token % 1_000_003},
        7_000_000_000_000_000_000 + number // 100,
    )
    origin = Origin("alice", "sql", "quarter-end", f"0a1b2c3d-{number // 100}", f"{call:032x}")
    return stored(event, origin, "")


def _changes(directory: Path, quick: bool) -> list[Line]:
    rows, repetitions = (100_000, 5) if quick else (1_000_000, 7)
    lakes = {
        "with": _Lake(directory / "with", 1000),
        "rows off": _Lake(directory / "off", 0),
        "without": _Lake(directory / "without", None),
    }
    made = f"SELECT range::INTEGER AS k, 'text ' || range AS s, range / 7.0 AS x FROM range({rows})"
    for lake in lakes.values():
        lake.run("CREATE TABLE small (k INTEGER, s TEXT)")
        for table, key in (("keyed", ", PRIMARY KEY (k)"), ("keyless", "")):
            lake.run(f"CREATE TABLE {table} (k INTEGER NOT NULL, s TEXT, x DOUBLE{key})")
            lake.run(f"INSERT INTO {table} {made}")

    def of(sql: str) -> dict[str, Callable[[], object]]:
        return {name: partial(lake.run, sql) for name, lake in lakes.items()}

    try:
        insert = _processor(of("INSERT INTO small VALUES (1, 'x')"), 20 * repetitions)
        one = _processor(of("UPDATE keyed SET x = x + 1 WHERE k = 77"), repetitions)
        thousand = _processor(of("UPDATE keyed SET x = x + 1 WHERE k < 1000"), repetitions)
        keyless = _processor(of("UPDATE keyless SET x = x + 1 WHERE k < 1000"), repetitions)
    finally:
        for lake in lakes.values():
            lake.lakehouse.close()
    return [
        _line("insert of one row", insert, "without"),
        _line(f"UPDATE of one row of {rows:,} by key, with its row recorded", one, "rows off"),
        _line(f"UPDATE of 1,000 rows of {rows:,}, all recorded", thousand, "rows off"),
        _line(f"UPDATE of 1,000 rows of {rows:,} without a key", keyless, "without"),
    ]


def _processor(ways: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of the processor that each way takes, all threads together; other work matters less."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repetitions):
        for name, way in ways.items():
            started_s = time.process_time()
            way()
            seconds[name].append(time.process_time() - started_s)
    return seconds


def _line(what: str, seconds: dict[str, list[float]], base: str) -> Line:
    def p50(name: str) -> str:
        return f"p50 {median(seconds[name]) * 1000:.1f} ms"

    found = median(seconds["with"]) / median(seconds[base])
    return Line(f"processor: {what}", p50("with"), f"{base} {p50(base)}", found, "")


class _Lake:
    """A lakehouse in this process: with a journal of so many rows a statement, or without any."""

    def __init__(self, directory: Path, max_row_changes: int | None) -> None:
        section = {"enabled": False} if max_row_changes is None else {"max_row_changes": max_row_changes}
        buckets = [{"name": "primary", "path": str(directory)}]
        self.lakehouse = Lakehouse(
            Settings.model_validate({"buckets": buckets, "journal": section, "datasets": {"enabled": False}})
        )
        self._session = self.lakehouse.sessions.get("benchmark", self.lakehouse.anonymous)

    def run(self, sql: str) -> int:
        engine = self.lakehouse.engine
        return engine.changes.run(engine.gate.analyse(sql), Scope(self._session, None, CallWatch()))
