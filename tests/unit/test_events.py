"""The event journal: what is kept of a change, how it is read, and who may read it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lakehouse import telemetry
from lakehouse.access.principal import Principal
from lakehouse.clock import FixedClock
from lakehouse.config import Settings
from lakehouse.config.journal import JournalSettings
from lakehouse.engine.system_events import EventView
from lakehouse.engine.system_filter import wanted_since
from lakehouse.journal import EVENTS_SCHEMA, EventFilter, EventJournal
from lakehouse.journal.change_event import ChangeEvent, Origin, acting
from lakehouse.journal.json_values import json_text
from lakehouse.runtime import Lakehouse
from lakehouse.storage import Bucket, open_local_bucket

BY_HAND = JournalSettings(flush_seconds=3600, flush_events=10**9)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEFORE = datetime(2026, 2, 28, 8, tzinfo=UTC)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_local_bucket("primary", tmp_path / "bucket")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START)


@pytest.fixture
def journal(bucket: Bucket, clock: FixedClock) -> Iterator[EventJournal]:
    opened = EventJournal(bucket, BY_HAND, clock)
    yield opened
    opened.close()


def objects(bucket: Bucket) -> list[str]:
    prefix = "_journal/events"
    return [f"{day}/{name}" for day in bucket.directories(prefix) for name in bucket.names(f"{prefix}/{day}")]


def test_a_change_is_kept_with_who_made_it_in_parquet(journal: EventJournal, bucket: Bucket) -> None:
    with acting(Origin("alice", "sql", "audit-2026", "s-1")):
        token = telemetry.call_fields.set({"request_id": "r-1", "principal": "somebody else"})
        journal.record(
            ChangeEvent("alter", "lake.main.t", "id", "properties.x", old=1, new={"a": [None, "é"]}),
            ChangeEvent("update", "lake.main.t", field="v", old=1, new=2, key={"k": 7}, snapshot_id=2**62),
        )
        telemetry.call_fields.reset(token)
    assert journal.flush() == 2
    assert objects(bucket) == ["date=2026-03-01/batch_1772366400000000.parquet"]
    stored = pq.read_table(bucket.local_path(f"_journal/events/{objects(bucket)[0]}"))
    assert stored.schema.equals(EVENTS_SCHEMA)
    first, second = stored.to_pylist()
    assert {name: value for name, value in first.items() if value is not None} == {
        "time": START, "kind": "change", "action": "alter", "entity": "lake.main.t", "entity_id": "id",
        "field": "properties.x", "old": "1", "new": '{"a":[null,"é"]}', "actor": "alice", "source": "sql",
        "workspace": "audit-2026", "statement_id": "s-1", "request_id": "r-1",
        "writer": first["writer"], "seq": 1,
    }  # fmt: skip
    assert (second["kind"], second["key"], second["snapshot_id"]) == ("row", '{"k":7}', 2**62)
    assert journal.table().to_pylist() == [first, second]
    assert [event["action"] for event in journal.recent(5)] == ["update", "alter"]


def test_a_change_outside_of_calls_is_kept_as_well(journal: EventJournal) -> None:
    journal.record(ChangeEvent("create", "lake.main.t"))
    (event,) = journal.table().to_pylist()
    assert (event["actor"], event["request_id"], event["workspace"]) == (None, None, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("1.10"), '"1.10"'),
        (float("nan"), '"nan"'),
        (2**63, "9223372036854775808"),
        (b"abc", '{"bytes":3,"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}'),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), '"2026-01-02T03:04:05.000006+00:00"'),
        (timedelta(hours=1), '"1:00:00"'),
        ({"a": (1, {2})}, '{"a":[1,[2]]}'),
        ("x" * 100, '{"beginning":"' + "x" * 20 + '","characters":100}'),
    ],
)
def test_values_are_kept_as_json_says_them_best(value: object, text: str) -> None:
    assert json_text(value, 40 if isinstance(value, str) else 16_384) == text


def test_a_value_that_json_cannot_say_or_no_text_is_loses_no_event(journal: EventJournal) -> None:
    loop: list[object] = []
    loop.append(loop)
    for value in (loop, object(), "half \ud83d of a pair", "\x00", {1: {2: Decimal(1)}}):
        journal.record(ChangeEvent("update", "e", new=value))
    journal.flush()
    events = journal.table().to_pylist()
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    assert all(event["kind"] == "change" for event in events)
    assert all(json.loads(event["new"]) is not None for event in events)


def test_events_are_filtered_by_what_they_say(journal: EventJournal, clock: FixedClock) -> None:
    for number in range(40):
        clock.time = START + timedelta(hours=number)
        with acting(Origin(f"user{number % 2}")):
            journal.record(ChangeEvent("commit" if number % 3 else "create", f"e{number % 5}", new=number))
        if number % 7 == 0:
            journal.flush()

    def found(**conditions: object) -> list[int]:
        return [json.loads(row["new"]) for row in journal.table(EventFilter(**conditions)).to_pylist()]

    since, until = START + timedelta(hours=10), START + timedelta(hours=20)
    assert found() == list(range(40))
    assert found(since=since, until=until) == list(range(10, 20))
    assert found(entities=frozenset({"e1", "e2"})) == [n for n in range(40) if n % 5 in (1, 2)]
    assert found(actor="user1", action="create") == [3, 9, 15, 21, 27, 33, 39]
    where = EventFilter(since=since, actor="user1")
    assert [json.loads(e["new"]) for e in journal.recent(3, where)] == [39, 37, 35]


def test_merging_keeps_order_and_every_event(
    journal: EventJournal, bucket: Bucket, clock: FixedClock
) -> None:
    other = EventJournal(bucket, BY_HAND, clock)
    chance = random.Random(7)
    for number in range(300):
        chance.choice((journal, other)).record(ChangeEvent("update", "e", new=number))
        clock.time += timedelta(milliseconds=chance.randint(0, 5))
        if chance.random() < 0.2:
            chance.choice((journal, other)).flush()
    journal.flush()
    other.flush()
    before = journal.table().to_pylist()
    assert sorted(json.loads(row["new"]) for row in before) == list(range(300))
    many = len(objects(bucket))
    clock.time += timedelta(hours=1)
    assert journal.compact() == many
    assert len(objects(bucket)) == 1
    assert objects(bucket)[0].endswith(".parquet")
    assert journal.table().to_pylist() == before == other.table().to_pylist()
    other.close()


def test_an_object_that_cannot_be_read_is_passed_over_and_kept(
    journal: EventJournal, bucket: Bucket, clock: FixedClock
) -> None:
    journal.record(ChangeEvent("create", "a"))
    journal.flush()
    bucket.put_new("_journal/events/date=2026-03-01/batch_1772366400000007.parquet", b"PAR1 not at all")
    clock.time += timedelta(seconds=1)
    journal.record(ChangeEvent("create", "b"))
    journal.flush()
    clock.time += timedelta(hours=1)
    assert journal.table()["entity"].to_pylist() == ["a", "b"]
    assert journal.compact() == 0
    assert len(objects(bucket)) == 3


def test_what_does_not_fit_is_cut_off_and_says_so(journal: EventJournal) -> None:
    for number in range(20):
        journal.record(ChangeEvent("update", "e", new="x" * 1000, detail=str(number)))
        journal.flush()
    found = journal.table(max_bytes=5000)
    assert found["kind"][0].as_py() == "truncated"
    assert found["detail"].to_pylist()[-1] == "19"
    assert 1 < len(found) < 10
    assert len(journal.table()) == 20


def test_a_commit_that_two_servers_recovered_is_there_once(
    journal: EventJournal, bucket: Bucket, clock: FixedClock
) -> None:
    other = EventJournal(bucket, BY_HAND, clock)
    again = ChangeEvent("commit", "e", event_id="t:1:0", is_recovered=True, at=START - timedelta(hours=1))
    for each in (journal, other):
        each.record(again)
        each.flush()
    assert journal.table()["event_id"].to_pylist() == ["t:1:0"]
    clock.time += timedelta(hours=1)
    journal.compact()
    assert pq.read_table(bucket.local_path(f"_journal/events/{objects(bucket)[0]}")).num_rows == 1
    journal.record(ChangeEvent("commit", "e", event_id="t:1:0"))
    (event,) = journal.table().to_pylist()
    assert event["is_recovered"] is None
    other.close()


def test_a_journal_that_is_turned_off_keeps_nothing(bucket: Bucket, clock: FixedClock) -> None:
    journal = EventJournal(bucket, JournalSettings(enabled=False), clock)
    journal.record(ChangeEvent("create", "e"))
    assert (journal.flush(), journal.compact(), journal.recent(1), len(journal.table())) == (0, 0, [], 0)
    assert bucket.directories("_journal") == []
    journal.close()


@pytest.fixture
def lakehouse(tmp_path: Path) -> Iterator[Lakehouse]:
    roles = [
        {"name": "flights", "grants": [{"on": "lake.main.flights", "privileges": ["read"]}]},
        {"name": "some", "grants": [
            {"on": "lake.main.flights", "privileges": ["read"], "row_filter": "origin = 'JFK'"}
        ]},
    ]  # fmt: skip
    opened = Lakehouse(Settings(buckets=[{"name": "primary", "path": tmp_path / "data"}], roles=roles))
    yield opened
    opened.close()


def test_events_show_only_what_their_reader_may_read(lakehouse: Lakehouse) -> None:
    events = lakehouse.events
    events.record(
        ChangeEvent("create", "lake.main.flights", new={"rows": 3}),
        ChangeEvent("update", "lake.main.flights", field="v", old=1, new=2, key={"k": 1}),
        ChangeEvent("create", "lake.main.secrets"),
        ChangeEvent("create", "lake.main", field="schema"),
        ChangeEvent("create", "lake.hidden", field="schema"),
        ChangeEvent("create", "lake.main.flights.old"),
        ChangeEvent("put", "primary/some/object"),
        ChangeEvent("rename", "lake.main.flights", old="lake.main.secrets", new="lake.main.flights"),
    )

    def seen(role: str) -> list[tuple[str, str | None]]:
        session = lakehouse.engine.new_session("s", {}, Principal("p", frozenset({role})))
        shown = events.table(keep=EventView(session.lakes).shown).to_pylist()
        return [(row["entity"].removeprefix("lake."), row["new"]) for row in shown if row["entity"]]

    assert len(seen("admin")) == len(events.table()) >= 7
    assert seen("flights") == [
        ("main.flights", '{"rows":3}'), ("main.flights", "2"), ("main", None),
        ("main.flights", '"lake.main.flights"'),
    ]  # fmt: skip
    assert seen("some") == [("main.flights", None), ("main", None), ("main.flights", None)]
    session = lakehouse.engine.new_session("s", {}, Principal("p", frozenset({"flights"})))
    assert events.table(keep=EventView(session.lakes).shown)["old"].to_pylist()[-1] is None


@pytest.mark.parametrize(
    ("condition", "since"),
    [
        ("time >= '2026-03-01'", datetime(2026, 2, 28, tzinfo=UTC)),
        (
            "time > TIMESTAMPTZ '2026-03-01 10:00:00+02:00' AND action = 'x'",
            datetime(2026, 2, 28, 8, tzinfo=UTC),
        ),
        ("'2026-03-02' < time", datetime(2026, 3, 1, tzinfo=UTC)),
        ("time BETWEEN '2026-03-02' AND '2026-03-04'", datetime(2026, 3, 1, tzinfo=UTC)),
        ("time >= '2026-03-01' OR action = 'x'", None),
        ("NOT (time >= '2026-03-01')", None),
        ("time <= '2026-03-01'", None),
        ("time >= now() - INTERVAL 1 DAY", None),
    ],
)
def test_batches_before_the_time_that_a_query_wants_need_not_be_read(
    condition: str, since: datetime | None
) -> None:
    assert wanted_since(f"SELECT * FROM system.events WHERE {condition}", "events") == since
    joined = f"SELECT * FROM system.events e LEFT JOIN t ON true WHERE {condition}"
    assert wanted_since(joined, "events") is None
