"""The audit journal: what is recorded, what never is, and how it is read."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.clock import FixedClock
from lakehouse.config.access import AuditSettings
from lakehouse.engine.redaction import UNPARSABLE, statement_text
from lakehouse.engine.system_audit import audit_table
from lakehouse.journal import AUDIT_SCHEMA, AuditJournal
from lakehouse.journal.event_table import EventTable
from lakehouse.storage import Bucket, open_local_bucket

CANARY = "hunter2canary"


@dataclass
class Ended:
    """A statement that has ended, as the journal sees it."""

    sql: str = "SELECT 1"
    id: str = "s-1"
    kind: str = "query"
    request_id: str = "r-1"
    session_id: str = "session"
    principal: str = "alice"
    peer: str = "ipv4:127.0.0.1:5"
    trace_id: str = ""
    tables: tuple[str, ...] = ("lake.main.t",)
    queue_s: float = 0.5
    plan_s: float = 0.25
    run_s: float = 1.0
    rows: int = 3
    bytes: int = 24
    code: str = ""


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_local_bucket("primary", tmp_path / "bucket")


def opened(bucket: Bucket, **values: object) -> AuditJournal:
    clock = FixedClock(datetime(2026, 3, 1, 12, tzinfo=UTC), tokens=random.randrange(10**9))
    audit = AuditSettings.model_validate({"flush_seconds": 3600, **values})
    return AuditJournal(bucket, audit, clock, statement_text)


@pytest.fixture
def journal(bucket: Bucket) -> Iterator[AuditJournal]:
    running = opened(bucket)
    yield running
    running.close()


def stored_text(bucket: Bucket) -> str:
    days = [f"_audit/{day}" for day in bucket.directories("_audit")]
    return "".join(bucket.get(f"{day}/{name}").decode() for day in days for name in bucket.names(day))


def test_a_statement_is_recorded_with_who_what_where_and_how_it_ended(
    journal: AuditJournal, bucket: Bucket
) -> None:
    journal.statement(Ended())
    journal.statement(Ended("SELECT 2", id="s-2", tables=(), code="PERMISSION_DENIED", rows=0, bytes=0))
    assert journal.flush() == 2
    first, second = (json.loads(line) for line in stored_text(bucket).splitlines())
    assert first.pop("writer") == second.pop("writer")
    assert first == {
        "time": "2026-03-01T12:00:00.000000Z",
        "seq": 1,
        "kind": "statement",
        "principal": "alice",
        "peer": "ipv4:127.0.0.1:5",
        "request_id": "r-1",
        "session_id": "session",
        "statement_id": "s-1",
        "statement_kind": "query",
        "statement": "SELECT 1",
        "tables": ["lake.main.t"],
        "outcome": "ok",
        "rows": 3,
        "bytes": 24,
        "duration_s": 1.25,
        "queue_s": 0.5,
    }
    assert (second["outcome"], "tables" in second) == ("PERMISSION_DENIED", False)


def test_actions_and_authentications_are_recorded(journal: AuditJournal) -> None:
    journal.authentication("mallory", "ipv4:10.0.0.9:1", "password", "UNAUTHENTICATED", request_id="r-0")
    journal.authentication("alice", "ipv4:127.0.0.1:5", "password")
    journal.action("alice", "peer", "r-1", "session", "samples.load", "", 0.1234567, method="password")
    journal.action("alice", "peer", "r-2", "session", "admin.kill", "PERMISSION_DENIED", 0.0)
    rows = journal.table().select(["kind", "principal", "method", "action", "outcome"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("authentication", "mallory", "password", None, "UNAUTHENTICATED"),
        ("authentication", "alice", "password", None, "ok"),
        ("action", "alice", "password", "samples.load", "ok"),
        ("action", "alice", None, "admin.kill", "PERMISSION_DENIED"),
    ]
    assert [event["action"] for event in journal.recent(2)] == ["admin.kill", "samples.load"]


def test_a_journal_that_is_switched_off_records_nothing(bucket: Bucket) -> None:
    journal = opened(bucket, enabled=False)
    journal.statement(Ended())
    journal.authentication("alice", "peer", "password")
    assert not journal.is_enabled
    assert (journal.flush(), journal.recent(9), journal.statistics()) == (0, [], None)
    assert journal.table() == AUDIT_SCHEMA.empty_table()
    journal.close()
    assert bucket.directories("_audit") == []


def test_recording_never_fails_whatever_breaks(journal: AuditJournal, bucket: Bucket) -> None:
    def broken(_sql: str, _all: bool) -> str:
        raise RuntimeError("broken")

    failing = AuditJournal(bucket, AuditSettings(flush_seconds=3600), FixedClock(tokens=7), broken)
    failing.statement(Ended())
    failing.flush()
    (row,) = failing.table().to_pylist()
    assert (row["kind"], row["dropped"]) == ("gap", 1)
    failing._events.append = None  # type: ignore[union-attr,assignment,method-assign]
    failing.statement(Ended())
    failing.close()


def test_the_text_of_a_statement_is_bounded(journal: AuditJournal) -> None:
    journal.statement(Ended("SELECT " + "1," * 50_000))
    (event,) = journal.recent(1)
    assert len(event["statement"]) == 10_001
    assert event["statement"].endswith("…")


def test_literals_are_left_out_where_the_configuration_says_so(bucket: Bucket) -> None:
    journal = opened(bucket, redact_literals=True)
    journal.statement(Ended(f"SELECT * FROM people WHERE name = '{CANARY}' AND age > 42"))
    journal.close()
    assert CANARY not in stored_text(bucket)
    assert '"SELECT * FROM people WHERE name = ? AND age > ?"' in stored_text(bucket)


@pytest.mark.parametrize(
    ("sql", "kept"),
    [
        ("SELECT 'a', 1, x FROM t", "SELECT ?, ?, x FROM t"),
        ("SELECT 'it''s', E'a\\'b', $$a$b$$, $q$a$$b$q$", "SELECT ?, ?, ?, ?"),
        ("SELECT X'AB', b'01', U&'d\\0061t'", "SELECT ?, ?, U&?"),
        ("SELECT -1.5e3, .5, 5., 0x1F, 0b11, 1_000, 12e", "SELECT -?, ?, ?, ?, ?, ?, ?"),
        ("SELECT /* x 'a' /* b */ c */ 1 -- 'd'\n FROM t", "SELECT  ?  FROM t"),
        ("SELECT * FROM t WHERE a = $1 AND b = ? AND c = ?2 AND d = $d", None),
        ('SELECT DATE \'2020-01-01\', "quoted name"."x" FROM t', 'SELECT DATE ?, "quoted name"."x" FROM t'),
        ("SELECT 'é漢🙂' || name é FROM t", "SELECT ? || name é FROM t"),
        ("SELECT 'cut off in the mid", "SELECT ?"),
        ("SELECT /* cut off", "SELECT  "),
        ("SELECT {'a': 1, 'b': [1, 2]}", "SELECT {?: ?, ?: [?, ?]}"),
        ("SELECT 'a'\n'b'", "SELECT ?\n?"),
        ("  \n SELECT 1", "SELECT ?"),
        ('SELECT a.b, t."x y", a.b.c FROM lake.main."t" WHERE a.b IS NULL', None),
        ("SELECT a.b.'x', a.1", "SELECT a.b.?, a?"),
        ("", ""),
        ("SELECT `a` 'b'", UNPARSABLE),
        ("SELECT \\ 'b'", UNPARSABLE),
        ('SELECT "cut off', UNPARSABLE),
        ("SELECT 'half \ud83d of a pair'", "SELECT ?"),
    ],
)
def test_every_literal_is_replaced(sql: str, kept: str | None) -> None:
    assert statement_text(sql, redact_literals=True) == (sql if kept is None else kept)


@pytest.mark.parametrize(
    "sql",
    [
        f"CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET '{CANARY}')",
        f"CREATE USER u WITH PASSWORD '{CANARY}'",
        f"SET s3_secret_access_key = '{CANARY}'",
        f"SET s3_secret_access_key = {CANARY}",
        f"SET s3_secret_access_key TO {CANARY}",
        f'SET password = "{CANARY}"',
        f"SELECT connect(password := '{CANARY}')",
        f"SELECT connect(api_key => '{CANARY}')",
        f"SELECT {{'password': '{CANARY}'}}",
        f"INSERT INTO users (name, password) VALUES ('alice', '{CANARY}')",
        f"UPDATE users SET passwd = $x${CANARY}$x$ WHERE id = 1",
        f"ATTACH 'postgres://me:{CANARY}@db/main'",
        f"ATTACH 'host=db user=me password={CANARY}' AS p",
        f"SELECT 1 -- my password is {CANARY}",
        f"SELECT 'Bearer {CANARY}'",
        f"SELECT 'eyJhbGciOiJIUzI1NiJ9.{CANARY}'",
        f"SELECT token FROM t WHERE token IN ('{CANARY}', 'b')",
        f"SELECT '{CANARY}' AS secret, `",
        f"SELECT 'password', '{CANARY}",
    ],
)
@pytest.mark.parametrize("redact_literals", [False, True])
def test_what_may_be_a_secret_is_never_kept(sql: str, redact_literals: bool) -> None:
    assert CANARY not in statement_text(sql, redact_literals)


def test_a_text_without_secrets_stays_as_it_is_unless_literals_are_left_out() -> None:
    sql = "SELECT 'a', \"b\" /* c */ FROM t WHERE \\ `"
    assert statement_text(sql, redact_literals=False) == sql


SQL_PIECES = st.lists(
    st.sampled_from(
        "SELECT FROM WHERE , ( ) ; ' '' \" \"\" $$ $q$ -- /* */ \n \\ ` E' U&' x' 0x 1e 1 .5 _ a é 🙂 ? $1 : "
        "= => password [ ] { } @ # ~ % ^ & | ! \t \u2028 \xa0".split(" ")
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(SQL_PIECES, SQL_PIECES)
def test_what_the_tokenizer_calls_a_literal_is_never_kept(before: list[str], after: list[str]) -> None:
    sql = "".join([*before, CANARY, *after])
    kept = statement_text(sql, redact_literals=True)
    data = sql.encode()
    tokens = duckdb.tokenize(sql)
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    is_name = any(
        CANARY in data[start:end].decode(errors="replace")
        and kind in (duckdb.token_type.identifier, duckdb.token_type.keyword)
        for (start, kind), end in zip(tokens, ends, strict=True)
    )
    assert CANARY not in kept or is_name


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=40), st.booleans())
def test_a_literal_of_any_text_is_left_out(text: str, dollars: bool) -> None:
    literal = f"$z${CANARY}{text}$z$" if dollars else "'" + (CANARY + text).replace("'", "''") + "'"
    kept = statement_text(f"SELECT {literal} AS c FROM t WHERE x = {literal}", redact_literals=True)
    assert CANARY not in kept


def test_the_table_has_exactly_its_schema_and_every_event_once(journal: AuditJournal, bucket: Bucket) -> None:
    for number in range(50):
        journal.statement(Ended(f"SELECT {number}", rows=number))
        if number % 7 == 0:
            journal.flush()
    other = opened(bucket)
    other.action("bob", "peer", "r", "s", "server.status", "", 0.0)
    other.flush()
    table = journal.table()
    assert table.schema == AUDIT_SCHEMA
    assert table["rows"].to_pylist() == [*range(50), None] or table["rows"].null_count == 1
    assert table["time"].type == pa.timestamp("us", tz="UTC")
    assert journal.table("bob")["principal"].to_pylist() == ["bob"]
    assert audit_table(journal).read(None).num_rows == 51
    assert not audit_table(journal).personal
    other.close()


def test_events_that_stand_in_two_objects_are_read_once(journal: AuditJournal, bucket: Bucket) -> None:
    for number in range(6):
        journal.statement(Ended(rows=number))
        journal.flush()
    (day,) = bucket.directories("_audit")
    batches = bucket.names(f"_audit/{day}")
    merged = b"".join(bucket.get(f"_audit/{day}/{name}") for name in batches)
    first, last = (re.sub(r"\D", "", name) for name in (batches[0], batches[-1]))
    bucket.put_new(f"_audit/{day}/merged_{first}_{last}_{last}.jsonl", merged)
    bucket.delete(f"_audit/{day}/{batches[2]}")
    assert journal.table()["rows"].to_pylist() == list(range(6))


def test_lines_that_are_no_events_are_left_out_of_the_table(journal: AuditJournal, bucket: Bucket) -> None:
    good = b'{"time":"2026-03-01T12:00:00Z","writer":"w","seq":%d,"kind":"action"}\n'
    bad = [b"garbage\n", b'{"writer":"w","seq":3,"rows":"many"}\n', b"[1]\n", b"\x00\x00\n", b'{"torn":']
    bucket.put_new(
        "_audit/date=2026-03-01/batch_1772366400000000.jsonl", b"".join([good % 1, *bad[:3], good % 9])
    )
    bucket.put_new("_audit/date=2026-03-01/batch_1772366400000001.jsonl", b"".join([good % 10, *bad[3:]]))
    bucket.put_new("_audit/date=2026-03-01/batch_1772366400000002.jsonl", b"")
    journal.statement(Ended())
    assert journal.table()["seq"].to_pylist() == [1, 9, 10, 1]


def test_a_table_that_leaves_out_older_events_says_so(journal: AuditJournal) -> None:
    for number in range(10):
        journal.statement(Ended("SELECT " + "x" * 1000, rows=number))
        journal.flush()
    assert journal._events is not None
    table = EventTable(AUDIT_SCHEMA, "_audit", max_bytes=3000).read(journal._events)
    assert table["rows"].to_pylist() == [None, 7, 8, 9]
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["kind"], first["time"]) == ("truncated", datetime(2026, 3, 1, 12, tzinfo=UTC))
    assert "_audit/" in first["detail"]


def test_every_word_that_betrays_a_secret_is_looked_for_in_the_quick_check_too() -> None:
    words = (
        "passwd PASSWORD passphrase Secret token credentials api-key API_KEY apikey access_key privateKey "
        "account_key authorization Bearer signature pwd pin connectionstring connection-string dsn x://u:p@h "
        "-----BEGIN AKIAABCDEFGHIJKL eyJhbGciOiJIUzI1 ghp_a gho_1 github_pat xoxb-1 sk-1 sk_live"
    )
    for word in words.split():
        assert CANARY not in statement_text(f"SELECT '{CANARY}', '{word}'", redact_literals=False), word
