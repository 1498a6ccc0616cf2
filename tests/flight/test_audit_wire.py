"""The audit journal of a running server: everything on record, for admins only, never with a secret in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from callers import Caller, presenting, start_guarded, token
from conftest import Server
from wire import query

CANARY = "hunter2canary"
PRINCIPALS = {"alice": ["writer"], "boss": ["admin"]}


def started(directory: Path, config: str = "") -> Server:
    return start_guarded(directory, config, PRINCIPALS)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = started(tmp_path_factory.mktemp("audited"))
    with Caller(running, "boss").adbc() as boss, boss.cursor() as cursor:
        cursor.adbc_ingest("people", pa.table({"id": [1, 2, 3], "name": ["a", "b", CANARY]}), mode="create")
    yield running
    assert running.stop() == 0, "".join(running.log[-50:])


def audit(server: Server, where: str = "true") -> list[dict[str, Any]]:
    sql = f"SELECT * FROM system.audit WHERE {where} ORDER BY writer, seq"
    rows: list[dict[str, Any]] = Caller(server, "boss").sql(sql).to_pylist()
    return rows


def stored(server: Server) -> str:
    files = sorted((server.directory / "bucket" / "_audit").rglob("*.jsonl"))
    return "".join(file.read_text() for file in files)


def test_statements_are_on_record_with_tables_rows_and_outcome(audited: Server) -> None:
    with Caller(audited, "alice").adbc() as alice, alice.cursor() as cursor:
        cursor.execute("SELECT id, 'on record' FROM people")
        assert cursor.fetch_arrow_table().num_rows == 3
        for refused in ("SELECT nowhere FROM people", "COPY people TO 'x.csv'", "SELEC 'on record'"):
            with pytest.raises(adbc.Error):
                cursor.execute(refused)
        cursor.execute("SELECT name FROM people WHERE name = ?", (CANARY,))
        cursor.fetchall()
    ran, unbound, forbidden, mistyped, prepared = (
        next(iter(audit(audited, f"principal = 'alice' AND statement = '{sql}'")), None)
        for sql in (
            "SELECT id, ''on record'' FROM people",
            "SELECT nowhere FROM people",
            "COPY people TO ''x.csv''",
            "SELEC ''on record''",
            "SELECT name FROM people WHERE name = ?",
        )
    )
    assert ran is not None
    assert (ran["kind"], ran["statement_kind"], ran["tables"]) == ("statement", "query", ["lake.main.people"])
    assert (ran["outcome"], ran["rows"]) == ("ok", 3)
    assert ran["bytes"] > 0
    assert ran["duration_s"] > 0
    assert ran["peer"].startswith("ipv4:127.0.0.1:")
    assert ran["request_id"]
    assert ran["session_id"]
    assert unbound is not None
    assert unbound["outcome"] == "SQL_INVALID"
    assert forbidden is not None
    assert forbidden["outcome"] in ("STATEMENT_FORBIDDEN", "NOT_SUPPORTED")
    assert mistyped is not None
    assert mistyped["outcome"] == "SQL_SYNTAX"
    assert prepared is not None
    assert (prepared["outcome"], prepared["rows"]) == ("ok", 1)


def test_what_is_loaded_is_on_record(audited: Server) -> None:
    (loaded,) = audit(audited, "principal = 'boss' AND statement_kind = 'ingest'")
    assert (loaded["outcome"], loaded["rows"], loaded["tables"]) == ("ok", 3, ["lake.main.people"])


def test_actions_are_on_record_and_so_are_refusals(audited: Server) -> None:
    Caller(audited, "alice").call("server.status")
    with pytest.raises(flight.FlightUnauthorizedError):
        Caller(audited, "alice").call("audit.flush")
    found = audit(audited, "kind = 'action' AND principal = 'alice'")
    outcomes = {row["action"]: (row["outcome"], row["method"]) for row in found}
    assert outcomes["server.status"] == ("ok", "token")
    assert outcomes["audit.flush"] == ("PERMISSION_DENIED", "token")


def test_failed_attempts_to_authenticate_are_on_record(audited: Server) -> None:
    with audited.client() as client, pytest.raises(flight.FlightUnauthenticatedError):
        query(client, "SELECT 1", presenting(CANARY))
    failed = audit(audited, "kind = 'authentication' AND outcome <> 'ok'")
    assert failed
    assert failed[-1]["peer"]


def test_the_journal_is_there_for_admins_only(audited: Server) -> None:
    alice = Caller(audited, "alice")
    for hidden in ("SELECT * FROM system.audit", "SELECT * FROM system.nowhere"):
        with pytest.raises(pa.ArrowException, match="TABLE_NOT_FOUND"):
            alice.sql(hidden)
    for action in ("audit.flush", "audit.recent"):
        with pytest.raises(flight.FlightUnauthorizedError):
            alice.call(action)


def test_recent_events_are_given_newest_first(audited: Server) -> None:
    Caller(audited, "boss").call("server.status")
    events = Caller(audited, "boss").call("audit.recent", limit=2)["events"]
    assert len(events) == 2
    assert events[0]["seq"] > events[1]["seq"]
    only = Caller(audited, "boss").call("audit.recent", kind="action", principal="boss")["events"]
    assert {(event["kind"], event["principal"]) for event in only} == {("action", "boss")}
    assert "server.status" in [event["action"] for event in only]


def test_no_secret_gets_into_the_journal(audited: Server) -> None:
    secrets = [
        f"CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET '{CANARY}')",
        f"SELECT * FROM people WHERE password = '{CANARY}'",
        f"ATTACH 'postgres://me:{CANARY}@db/main'",
    ]
    alice = Caller(audited, "alice")
    for sql in secrets:
        with pytest.raises(pa.ArrowException):
            alice.sql(sql)
    for action, request in (("samples.load", {"name": CANARY}), ("server.status", {CANARY: CANARY})):
        with pytest.raises(pa.ArrowException):
            Caller(audited, "boss").call(action, **request)
    assert Caller(audited, "boss").call("audit.flush")["flushed"] > 0
    text = stored(audited)
    assert "CREATE SECRET s (TYPE s3, KEY_ID ?, SECRET ?)" in text
    assert '"action":"samples.load"' in text
    assert CANARY not in text
    assert not any(token(name) in text for name in PRINCIPALS)


def test_what_was_flushed_survives_kill_and_what_was_not_a_clean_stop(tmp_path: Path) -> None:
    first = started(tmp_path, "[audit]\nflush_seconds = 3600\n")
    with Caller(first, "alice").adbc() as alice, alice.cursor() as cursor:
        cursor.execute("SELECT 'before the flush'")
        cursor.fetchall()
    Caller(first, "boss").call("audit.flush")
    first.kill()
    second = started(tmp_path, "[audit]\nflush_seconds = 3600\nredact_literals = true\n")
    assert len(audit(second, "statement = 'SELECT ''before the flush'''")) == 1
    with Caller(second, "alice").adbc() as alice, alice.cursor() as cursor:
        cursor.execute("SELECT 'not flushed by hand', 42")
        cursor.fetchall()
    assert second.stop() == 0
    assert '"statement":"SELECT ?, ?"' in stored(second)
    files = str(tmp_path / "bucket" / "_audit" / "*" / "*.jsonl")
    counts = duckdb.sql(
        f"SELECT count(*), count(DISTINCT (writer, seq)) FROM read_json('{files}')"
    ).fetchall()
    assert counts[0][0] == counts[0][1] >= 5


def test_a_journal_that_is_switched_off_is_empty_and_says_so(tmp_path: Path) -> None:
    running = started(tmp_path, "[audit]\nenabled = false\n")
    assert audit(running) == []
    with pytest.raises(pa.ArrowException, match=r"audit\.enabled"):
        Caller(running, "boss").call("audit.flush")
    assert running.stop() == 0
    assert not (tmp_path / "bucket" / "_audit").exists()
