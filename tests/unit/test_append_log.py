"""The append log: order, uniqueness, bounds, merging and what is durable when."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse.clock import FixedClock, SystemClock
from lakehouse.storage import Bucket, open_local_bucket
from lakehouse.storage.append_log import AppendLog, LogBounds
from lakehouse.storage.log_encoding import SeenEvents, parse_entry
from lakehouse.storage.log_objects import LogObject

# Nothing is written unless a test says so.
BY_HAND = LogBounds(flush_seconds=3600, flush_events=10**9, flush_bytes=10**9, compact_objects=0)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_local_bucket("primary", tmp_path / "bucket")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 3, 1, 12, tzinfo=UTC))


@pytest.fixture
def log(bucket: Bucket, clock: FixedClock) -> Iterator[AppendLog]:
    opened = AppendLog(bucket, "_log", clock, BY_HAND)
    yield opened
    opened.close()


def names(bucket: Bucket, prefix: str = "_log") -> list[str]:
    return [f"{day}/{name}" for day in bucket.directories(prefix) for name in bucket.names(f"{prefix}/{day}")]


def numbers(log: AppendLog, **bounds: Any) -> list[int]:
    return [event["n"] for event in log.read(**bounds)]


def test_a_flush_writes_one_new_object_of_json_lines(log: AppendLog, bucket: Bucket) -> None:
    log.append({"kind": "a", "n": 1})
    log.append({"kind": "b", "n": 2})
    assert names(bucket) == []
    assert log.flush() == 2
    assert names(bucket) == ["date=2026-03-01/batch_1772366400000000.jsonl"]
    lines = bucket.get("_log/date=2026-03-01/batch_1772366400000000.jsonl").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"time": "2026-03-01T12:00:00.000000Z", "writer": log.writer, "seq": 1, "kind": "a", "n": 1},
        {"time": "2026-03-01T12:00:00.000000Z", "writer": log.writer, "seq": 2, "kind": "b", "n": 2},
    ]
    assert log.flush() == 0
    assert len(names(bucket)) == 1


def test_a_number_that_is_taken_makes_way_for_the_next_microsecond(bucket: Bucket, clock: FixedClock) -> None:
    logs = [AppendLog(bucket, "_log", clock, BY_HAND) for _ in range(3)]
    for number, log in enumerate(logs):
        log.append({"n": number})
    for log in logs:
        log.flush()
    assert [name[-7:] for name in names(bucket)] == [f"{us}.jsonl"[-7:] for us in range(3)]
    assert numbers(logs[0]) == [0, 1, 2]
    for log in logs:
        log.close()


def test_events_that_wait_are_read_after_the_stored_ones(log: AppendLog) -> None:
    log.append({"n": 1})
    log.flush()
    log.append({"n": 2})
    assert numbers(log) == [1, 2]
    assert [event["n"] for event in log.recent(5)] == [2, 1]
    assert [event["n"] for event in log.recent(1)] == [2]


def test_recent_events_need_no_storage_and_are_bounded(bucket: Bucket, clock: FixedClock) -> None:
    log = AppendLog(bucket, "_log", clock, LogBounds(ring_events=3, ring_bytes=500, flush_seconds=3600))
    for number in range(9):
        log.append({"n": number})
    assert [event["n"] for event in log.recent(100)] == [8, 7, 6]
    log.append({"n": 9, "text": "x" * 400})
    assert [event["n"] for event in log.recent(100)] == [9]
    log.close()


def test_events_between_two_times_are_read(log: AppendLog, clock: FixedClock) -> None:
    start = clock.time
    for hour in range(60):
        clock.time = start + timedelta(hours=hour)
        log.append({"n": hour})
        if hour % 7 == 0:
            log.flush()
    assert numbers(log, since=start + timedelta(hours=10)) == list(range(10, 60))
    assert numbers(log, until=start + timedelta(hours=10)) == list(range(10))
    since, until = start + timedelta(hours=20), start + timedelta(hours=40)
    assert numbers(log, since=since, until=until) == list(range(20, 40))


def test_a_clock_that_goes_backwards_changes_neither_order_nor_completeness(
    log: AppendLog, clock: FixedClock
) -> None:
    for number in range(40):
        log.append({"n": number})
        clock.time += timedelta(minutes=random.Random(number).randint(-90, 60))
        if number % 3 == 0:
            log.flush()
    assert numbers(log) == list(range(40))
    log.compact(settle_seconds=-1e9)
    assert numbers(log) == list(range(40))


def test_an_event_may_be_made_in_the_thread_that_writes(log: AppendLog) -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"n": 7}

    log.append(make)
    assert made == []
    log.flush()
    assert (made, numbers(log)) == ([1], [7])


@pytest.mark.parametrize("event", [{"n": object()}, {"n": float("nan")}, {"n": {1, 2}}, lambda: 1 / 0])
def test_an_event_that_cannot_be_written_leaves_a_gap_that_says_so(log: AppendLog, event: Any) -> None:
    log.append({"n": 1})
    log.append(event)
    log.append({"n": 3})
    log.flush()
    first, gap, last = log.read()
    assert (first["n"], last["n"]) == (1, 3)
    assert (gap["kind"], gap["dropped"]) == ("gap", 1)
    assert "could not be written" in gap["detail"]


def test_any_text_comes_back_as_it_was(log: AppendLog) -> None:
    texts = ["é漢🙂", "\u2028\u2029\u0085\x1c", "a\nb\r\nc", '"\\', "\x00\x01", "x" * 1_000_000, "\ufeff"]
    for text in texts:
        log.append({"text": text})
    log.append({"text": "half \ud83d of a pair"})
    log.flush()
    assert [event["text"] for event in log.read()] == [*texts, "half ? of a pair"]


def test_a_batch_is_closed_when_it_is_large(bucket: Bucket, clock: FixedClock) -> None:
    log = AppendLog(bucket, "_log", clock, LogBounds(flush_bytes=1000, flush_seconds=3600, compact_objects=0))
    for number in range(10):
        log.append({"n": number, "text": "x" * 500}, size=1)
    log.flush()
    assert len(names(bucket)) == 5
    assert numbers(log) == list(range(10))
    log.close()


def test_merging_keeps_order_and_every_line(log: AppendLog, bucket: Bucket, clock: FixedClock) -> None:
    for number in range(30):
        clock.time += timedelta(seconds=1)
        log.append({"n": number})
        log.flush()
    before = list(log.read())
    assert log.compact(settle_seconds=0) == 30
    assert len(names(bucket)) == 1
    assert list(log.read()) == before
    assert log.compact(settle_seconds=-1) == 0
    log.append({"n": 30})
    log.flush()
    assert numbers(log) == list(range(31))


def test_young_objects_are_not_merged(log: AppendLog, bucket: Bucket, clock: FixedClock) -> None:
    for number in range(10):
        clock.time += timedelta(seconds=10)
        log.append({"n": number})
        log.flush()
    assert log.compact(settle_seconds=45) == 5
    assert len(names(bucket)) == 6
    assert numbers(log) == list(range(10))
    assert log.compact(settle_seconds=45) == 0, "what was merged just now is young"


def test_days_are_merged_for_themselves(log: AppendLog, bucket: Bucket, clock: FixedClock) -> None:
    for number in range(12):
        log.append({"n": number})
        log.flush()
        clock.time += timedelta(hours=6)
    log.compact(settle_seconds=0)
    assert [name[:15] for name in names(bucket)] == [f"date=2026-03-0{day}" for day in (1, 2, 3, 4)]
    assert numbers(log) == list(range(12))


def test_a_log_is_rewritten_a_logarithmic_number_of_times(
    log: AppendLog, bucket: Bucket, clock: FixedClock
) -> None:
    written = 0
    for round_ in range(64):
        for number in range(4):
            clock.time += timedelta(seconds=1)
            log.append({"n": round_ * 4 + number, "text": "x" * 1000})
            log.flush()
        before = set(names(bucket))
        log.compact(settle_seconds=-1)
        written += sum(bucket.size(f"_log/{name}") for name in set(names(bucket)) - before)
    logged = log.statistics().logged_bytes
    assert numbers(log) == list(range(256))
    assert written < 8 * logged
    assert len(names(bucket)) < 12


def test_objects_that_are_not_of_the_log_are_passed_over(
    log: AppendLog, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    log.append({"n": 1})
    log.flush()
    day = "_log/date=2026-03-01"
    bucket.put(f"{day}/notes.txt", b"hello")
    bucket.put(f"{day}/batch_1.jsonl", b"{}")
    bucket.put(f"{day}/batch_1772366400000007.jsonl", b'\x00\x00\xff\n{"n": 5}\n[1]\n{"n":')
    bucket.put(f"{day}/merged_1772366400000008_1772366400000009.jsonl", b"")
    bucket.put("_log/date=lost/batch_1772366400000007.jsonl", b"hello")
    log.append({"n": 2})
    log.flush()
    assert numbers(log) == [1, 2]
    assert log.compact(settle_seconds=-1) == 0
    assert bucket.get(f"{day}/batch_1772366400000007.jsonl").startswith(b"\x00"), "nothing unread is removed"
    said = capsys.readouterr().out
    assert said.count("log_object_skipped") == 4
    assert "notes.txt" in said
    assert "something in it is not an event" in said


def test_what_does_not_fit_while_storage_is_down_is_counted(bucket: Bucket, clock: FixedClock) -> None:
    log = AppendLog(bucket, "_log", clock, LogBounds(held_events=5, flush_seconds=3600))
    start = clock.time
    taken = []
    for number in range(12):
        clock.time = start + timedelta(seconds=number)
        taken.append(log.append({"n": number}))
    assert taken == [True] * 5 + [False] * 7
    log.flush()
    log.append({"n": 12})
    log.flush()
    *first, gap, last = log.read()
    assert [event["n"] for event in first] == [0, 1, 2, 3, 4]
    assert (gap["kind"], gap["dropped"]) == ("gap", 7)
    assert (gap["since"], gap["until"]) == ("2026-03-01T12:00:05.000000Z", "2026-03-01T12:00:11.000000Z")
    assert last["n"] == 12
    assert log.statistics().dropped == 7
    log.close()


def test_thresholds_and_age_flush_without_being_asked(bucket: Bucket) -> None:
    by_count = AppendLog(bucket, "count", SystemClock(), LogBounds(flush_events=10, flush_seconds=3600))
    by_bytes = AppendLog(bucket, "bytes", SystemClock(), LogBounds(flush_bytes=1000, flush_seconds=3600))
    by_age = AppendLog(bucket, "age", SystemClock(), LogBounds(flush_seconds=0.01))
    for number in range(10):
        by_count.append({"n": number})
    by_bytes.append({"text": "x" * 1000})
    by_age.append({"n": 1})
    for log in (by_count, by_bytes, by_age):
        while log.statistics().waiting:
            time.sleep(0.001)
        assert log.statistics().batches == 1
        log.close()


def test_closing_writes_what_waits(bucket: Bucket, clock: FixedClock) -> None:
    log = AppendLog(bucket, "_log", clock, BY_HAND)
    log.append({"n": 1})
    log.close()
    afresh = AppendLog(bucket, "_log", clock, BY_HAND)
    assert numbers(afresh) == [1]
    afresh.close()


def test_batches_are_merged_without_being_asked(bucket: Bucket) -> None:
    bounds = LogBounds(flush_events=1, flush_seconds=0.001, compact_objects=5, settle_seconds=0)
    log = AppendLog(bucket, "_log", SystemClock(), bounds)
    number = 0
    while not any("merged" in name for name in names(bucket)):
        log.append({"n": number})
        number += 1
        log.flush()
    log.close()
    afresh = AppendLog(bucket, "_log", SystemClock(), BY_HAND)
    assert numbers(afresh) == list(range(number))
    afresh.close()


def test_names_of_objects_are_in_the_order_of_reading() -> None:
    ordered = [
        "batch_0000000000000001.jsonl",
        "merged_0000000000000002_0000000000000003_0000000000000009.jsonl",
        "merged_0000000000000002_0000000000000004_0000000000000005.jsonl",
        "batch_0000000000000002.jsonl",
        "batch_0000000000000003.jsonl",
    ]
    objects = [LogObject.of(name) for name in reversed(ordered)]
    assert [found.name for found in sorted(found for found in objects if found)] == ordered
    assert LogObject.of("batch_0000000000000002_0000000000000004_0000000000000005.jsonl") is None


def test_an_event_is_new_once() -> None:
    seen = SeenEvents()
    assert [seen.is_new("a", seq) for seq in (1, 2, 2, 1, 5)] == [True, True, False, False, True]
    assert seen.is_new("b", 1)
    assert parse_entry(b'{"writer": "a", "seq": "1"}') is None
    assert parse_entry(b"[" * 100_000) is None
