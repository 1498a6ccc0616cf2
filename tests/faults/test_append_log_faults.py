"""Storage that fails, processes that die, writers that race: every confirmed event is read, exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from faults.faulty_bucket import Fails, FaultyBucket

from lakehouse.clock import Clock, FixedClock, SystemClock
from lakehouse.errors import LakehouseError, StorageError
from lakehouse.storage import open_local_bucket
from lakehouse.storage.append_log import AppendLog, LogBounds

BY_HAND = LogBounds(flush_seconds=3600, flush_events=10**9, compact_objects=0)


def faulty(path: Path, fails: Fails) -> FaultyBucket:
    return FaultyBucket(open_local_bucket("primary", path), fails)


def stored(path: Path) -> list[Any]:
    """What a new process reads."""
    log = AppendLog(open_local_bucket("primary", path), "_log", SystemClock(), BY_HAND)
    try:
        return [event["n"] for event in log.read()]
    finally:
        log.close()


def tried(action: Callable[[], object]) -> bool:
    try:
        action()
    except LakehouseError:
        return False
    return True


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("every", range(2, 8))
def test_storage_that_fails_at_every_nth_call_neither_loses_nor_doubles(
    tmp_path: Path, every: int, when: str
) -> None:
    bucket = faulty(tmp_path, lambda call, _: when if call % every == 0 else None)
    log = AppendLog(bucket, "_log", SystemClock(), BY_HAND)
    confirmed = 0
    for number in range(60):
        log.append({"n": number})
        if tried(log.flush):
            confirmed = number + 1
        assert stored(tmp_path)[:confirmed] == list(range(confirmed))
        if number % 10 == 9:
            tried(lambda: log.compact(settle_seconds=-1))
    bucket.fails = lambda *_: None
    log.close()
    assert stored(tmp_path) == list(range(60))


@pytest.mark.parametrize("seed", range(12))
def test_any_mixture_of_faults_writers_clocks_and_merging_gives_each_event_once(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)

    def fails(_call: int, _what: str) -> str | None:
        return chance.choice(["before", "after"]) if chance.random() < 0.15 else None

    clocks = [FixedClock(datetime(2026, 3, 1, 23, 59, tzinfo=UTC), tokens=n * 100) for n in range(3)]
    logs = [AppendLog(faulty(tmp_path, fails), "_log", clock, BY_HAND) for clock in clocks]
    appended: list[list[int]] = [[], [], []]
    confirmed = [0, 0, 0]
    for number in range(300):
        who = chance.randrange(3)
        log, clock = logs[who], clocks[who]
        clock.time += timedelta(seconds=chance.choice([0, 0, 1, 30, -45]))
        log.append({"n": number, "who": who})
        appended[who].append(number)
        if chance.random() < 0.4 and tried(log.flush):
            confirmed[who] = len(appended[who])
        if chance.random() < 0.05:
            tried(lambda chosen=log: chosen.compact(settle_seconds=-1e6))
        if chance.random() < 0.05:
            check_events(stored_by_writer(tmp_path), appended, confirmed)
    for log in logs:
        while not tried(log.flush):
            pass
        log.close()
    check_events(stored_by_writer(tmp_path), appended, [len(events) for events in appended])


def stored_by_writer(path: Path) -> list[list[int]]:
    log = AppendLog(open_local_bucket("primary", path), "_log", SystemClock(), BY_HAND)
    found: list[list[int]] = [[], [], []]
    for event in log.read():
        found[event["who"]].append(event["n"])
    log.close()
    return found


def check_events(found: list[list[int]], appended: list[list[int]], confirmed: list[int]) -> None:
    for events, all_events, at_least in zip(found, appended, confirmed, strict=True):
        assert events == all_events[: len(events)]
        assert len(events) >= at_least


class PagedBucket(FaultyBucket):
    """A bucket that lists in pages of three, as object stores do, and lets others work between two pages."""

    def __init__(self, path: Path, between: Callable[[], None]) -> None:
        super().__init__(open_local_bucket("primary", path), lambda *_: None)
        self.between = between

    def names(self, prefix: str) -> list[str]:
        found: list[str] = []
        while page := [name for name in super().names(prefix) if not found or name > found[-1]][:3]:
            found += page
            self.between()
        return found

    def get(self, key: str) -> bytes:
        self.between()
        return super().get(key)


@pytest.mark.parametrize("seed", range(5))
def test_a_reader_whose_listing_is_overtaken_sees_each_event_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    clocks = [FixedClock(datetime(2026, 3, 1, 12, tzinfo=UTC), tokens=n * 100) for n in range(3)]
    plain = open_local_bucket("primary", tmp_path)
    plain._persist = None  # power failures are not what this is about
    logs = [AppendLog(plain, "_log", clock, BY_HAND) for clock in clocks]
    appended: list[list[int]] = [[], [], []]

    def work() -> None:
        for clock in clocks:
            clock.time += timedelta(seconds=chance.choice([1, 2]))
        for who in chance.sample(range(3), chance.choice([0, 0, 1, 2])):
            number = sum(map(len, appended))
            logs[who].append({"n": number, "who": who})
            logs[who].flush()
            appended[who].append(number)
        if chance.random() < 0.3:
            logs[0].compact(settle_seconds=60)

    for _ in range(60):
        work()
    busy = AppendLog(PagedBucket(tmp_path, work), "_log", SystemClock(), BY_HAND)
    for _ in range(2):
        at_least = [len(events) for events in appended]
        found: list[list[int]] = [[], [], []]
        for event in busy.read():
            found[event["who"]].append(event["n"])
        check_events(found, appended, at_least)
    for log in (*logs, busy):
        log.close()


def test_a_merge_that_stops_before_its_sources_are_gone_shows_nothing_twice(tmp_path: Path) -> None:
    bucket = faulty(tmp_path, lambda *_: None)
    log = AppendLog(bucket, "_log", SystemClock(), BY_HAND)
    for number in range(10):
        log.append({"n": number})
        log.flush()
    for allowed in range(4):
        deletes = Counter[str]()

        def fails(_call: int, what: str, most: int = allowed, seen: Counter[str] = deletes) -> str | None:
            seen[what] += 1
            return "before" if what == "delete" and seen[what] > most else None

        bucket.fails = fails
        assert not tried(lambda: log.compact(settle_seconds=-1))
        assert [event["n"] for event in log.read()] == list(range(10))
    bucket.fails = lambda *_: None
    log.compact(settle_seconds=-1)
    assert len(list((tmp_path / "_log").rglob("*.jsonl"))) == 1
    assert [event["n"] for event in log.read()] == list(range(10))
    log.close()


def test_a_log_whose_objects_may_not_be_deleted_is_merged_ever_more_rarely(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = faulty(tmp_path, lambda _, what: "before" if what == "delete" else None)
    bounds = LogBounds(flush_seconds=0.001, compact_objects=2, settle_seconds=0)
    log = AppendLog(bucket, "_log", SystemClock(), bounds)
    for number in range(100):
        log.append({"n": number})
        log.flush()
    while log._since_compaction >= log._compact_after:
        time.sleep(0.001)
    log.close()
    assert stored(tmp_path) == list(range(100))
    merged = list((tmp_path / "_log").rglob("merged_*"))
    assert 1 <= len(merged) <= 7
    assert capsys.readouterr().out.count("log_not_merged") == len(merged)


def test_a_confirmed_event_was_flushed_to_the_disk_even_after_a_failed_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = open_local_bucket("primary", tmp_path)
    log = AppendLog(bucket, "_log", SystemClock(), BY_HAND)
    log.append({"n": 1})
    flushed: list[str] = []
    fsync = os.fsync

    def failing(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match="input/output error"):
        log.flush()
    assert log.statistics().waiting == 1
    monkeypatch.setattr(
        os, "fsync", lambda fd: flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink())) or fsync(fd)
    )
    assert log.flush() == 1
    assert any(path.endswith(".jsonl") for path in flushed)
    assert stored(tmp_path) == [1]
    log.close()


def test_an_outage_is_waited_out_in_bounded_memory_and_its_gap_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = faulty(tmp_path, lambda *_: "before")
    bounds = LogBounds(
        flush_events=10, flush_seconds=0.01, held_events=500, retry_seconds=0.001, max_retry_seconds=0.01
    )
    log = AppendLog(bucket, "_log", SystemClock(), bounds)
    for number in range(2000):
        log.append({"n": number})
    assert log.statistics().waiting == 500
    assert log.statistics().dropped == 1500
    while bucket.calls < 5:
        time.sleep(0.001)
    bucket.fails = lambda *_: None
    while log.statistics().waiting:
        time.sleep(0.001)
    log.append({"n": 2000})
    log.close()
    events = [event.get("n", event) for event in reader(tmp_path).read()]
    assert events[:500] == list(range(500))
    assert events[500]["dropped"] == 1500
    assert events[501:] == [2000]
    said = capsys.readouterr().out
    assert said.count("log_not_written") == 1
    assert said.count("log_events_dropped") == 1
    assert "log_written_again" in said


def reader(path: Path) -> AppendLog:
    return AppendLog(open_local_bucket("primary", path), "_log", SystemClock(), BY_HAND)


def test_events_that_cannot_be_written_at_the_end_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = AppendLog(faulty(tmp_path, lambda *_: "before"), "_log", SystemClock(), BY_HAND)
    for number in range(3):
        log.append({"n": number})
    log.close()
    said = capsys.readouterr().out
    assert "log_events_lost" in said
    assert "events=3" in said or '"events": 3' in said


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        log.append({"n": 0}); log.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
        failed = 0
        for number in range(1, 30):
            log.append({"n": number, "text": "x" * 100})
            try:
                log.flush()
            except StorageError:
                failed += 1
        assert failed == 29, failed
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        log.flush()
    """
    subprocess.run([sys.executable, "-c", program(tmp_path, code)], check=True, timeout=200)
    assert stored(tmp_path) == list(range(30))


def program(path: Path, code: str) -> str:
    head = f"""
        from lakehouse.clock import SystemClock
        from lakehouse.errors import StorageError
        from lakehouse.storage import open_local_bucket
        from lakehouse.storage.append_log import AppendLog, LogBounds
        bounds = LogBounds(flush_seconds=3600, flush_events=10**9, compact_objects=0)
        log = AppendLog(open_local_bucket("primary", {str(path)!r}), "_log", SystemClock(), bounds)
    """
    return textwrap.dedent(head) + textwrap.dedent(code)


WRITER = """
    import sys
    who = sys.argv[1]
    for number in range(int(sys.argv[2])):
        log.append({"n": f"{who}-{number}", "text": "x" * 200})
        if number % 3 == 0:
            log.flush()
            print(number, flush=True)
        if number % 50 == 49:
            log.compact(settle_seconds=0)
    log.close()
"""


def start_writer(path: Path, who: str, events: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program(path, WRITER), who, str(events)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_was_confirmed_survives_kill_at_any_moment(tmp_path: Path) -> None:
    confirmed: dict[str, int] = {}
    for round_ in range(6):
        who = f"w{round_}"
        writer = start_writer(tmp_path, who, 1_000_000)
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(10 + 37 * round_)]
        time.sleep(random.Random(round_).random() * 0.03)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
        writer.stdout.close()
        writer.wait()
        confirmed[who] = max(int(line) for line in [*lines, *rest] if line.strip())
    check_numbers(tmp_path, confirmed)
    log = reader(tmp_path)
    log.compact(settle_seconds=-1)
    log.close()
    check_numbers(tmp_path, confirmed)


def check_numbers(path: Path, confirmed: dict[str, int]) -> None:
    found: dict[str, list[int]] = {who: [] for who in confirmed}
    for name in stored(path):
        who, number = name.split("-")
        found[who].append(int(number))
    for who, numbers in found.items():
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > confirmed[who]


def test_two_processes_on_one_prefix_neither_overwrite_nor_lose_nor_double(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, f"w{number}", 400) for number in range(2)]
    for writer in writers:
        writer.communicate(timeout=200)
        assert writer.returncode == 0
    check_numbers(tmp_path, {"w0": 399, "w1": 399})


def test_readers_see_each_event_once_while_others_write_and_merge(tmp_path: Path) -> None:
    bucket = open_local_bucket("primary", tmp_path)
    clock: Clock = SystemClock()
    log, other = AppendLog(bucket, "_log", clock, BY_HAND), AppendLog(bucket, "_log", clock, BY_HAND)
    stop = threading.Event()
    durable = 0
    errors: list[BaseException] = []

    def merge() -> None:
        while not stop.is_set():
            tried(lambda: other.compact(settle_seconds=-1))

    def read() -> None:
        reading = AppendLog(bucket, "_log", clock, BY_HAND)
        while not stop.is_set():
            at_least = durable
            numbers = [event["n"] for event in reading.read()]
            try:
                assert numbers == list(range(len(numbers)))
                assert len(numbers) >= at_least
            except AssertionError as error:
                errors.append(error)
                stop.set()
        reading.close()

    threads = [threading.Thread(target=work) for work in (merge, read, read)]
    for thread in threads:
        thread.start()
    for number in range(400):
        log.append({"n": number})
        log.flush()
        durable = number + 1
        if stop.is_set():
            break
    stop.set()
    for thread in threads:
        thread.join()
    log.close()
    other.close()
    assert errors == []
    assert stored(tmp_path) == list(range(400))


@pytest.mark.parametrize("missed", [0, 1, 2])
def test_an_object_that_one_listing_missed_is_neither_lost_nor_out_of_order(
    tmp_path: Path, missed: int
) -> None:
    log = AppendLog(open_local_bucket("primary", tmp_path), "_log", SystemClock(), BY_HAND)
    for number in range(4):
        log.append({"n": number})
        log.flush()
    bucket = faulty(tmp_path, lambda *_: None)
    (day,) = bucket.directories("_log")
    all_names = bucket.names(f"_log/{day}")
    listings = [[name for name in all_names if name != all_names[missed]]]
    listed = bucket.names
    bucket.names = lambda prefix: listings.pop() if listings else listed(prefix)  # type: ignore[method-assign]
    reading = AppendLog(bucket, "_log", SystemClock(), BY_HAND)
    assert [event["n"] for event in reading.read()] == [0, 1, 2, 3]
    reading.close()
    log.close()
