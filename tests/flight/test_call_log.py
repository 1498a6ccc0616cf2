"""What the log of a real server says of calls and of slow statements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import Server, start_server
from wire import call, cookie_options, query

FAILURE = (pa.ArrowException, flight.FlightError)
COOKIE = "c0ffee" * 5
SLOW = "SELECT count(*) AS n FROM range(3000000) a(x) WHERE hash(x) % 7 = 3 AND 'private words' <> ''"

Lines = list[dict[str, Any]]


def lines(server: Server, event: str) -> Lines:
    found = [json.loads(line) for line in server.log if line.startswith("{")]
    return [line for line in found if line["event"] == event]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server that answered some calls and wrote down everything."""
    config = '[log]\nlevel = "debug"\nslow_statement_seconds = 0.001\n[session]\nmax_sessions = 1\n'
    server = start_server(tmp_path_factory.mktemp("log"), config)
    try:
        with server.client() as client:
            options = cookie_options(COOKIE)
            for _ in range(2):
                query(client, SLOW, options)
            with pytest.raises(FAILURE):
                query(client, "SELECT * FROM read_csv('/etc/passwd')", options)
            with pytest.raises(FAILURE):
                query(client, "PRAGMA enable_profiling", options)
            call(client, "server.status")
    finally:
        status = server.stop()
    assert status == 0, "".join(server.log[-50:])
    return server


def test_each_call_leaves_a_line_that_says_who_what_and_how_it_ended(stopped: Server) -> None:
    calls = lines(stopped, "call")
    assert [line["rpc"] for line in calls[:4]] == ["GetFlightInfo", "DoGet"] * 2
    for line in calls:
        assert line["level"] == "debug"
        assert line["code"] == "OK"
        assert line["principal"] == "anonymous"
        assert line["seconds"] > 0
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert len(line["request_id"]) == 32
    assert len({line["request_id"] for line in calls}) == len(calls)


def test_no_line_holds_what_lets_into_a_session(stopped: Server) -> None:
    assert lines(stopped, "call")[0]["session"]
    assert COOKIE not in "".join(stopped.log)


def test_a_refused_call_is_a_warning(stopped: Server) -> None:
    refused = lines(stopped, "call refused")
    assert [line["code"] for line in refused] == ["STATEMENT_FORBIDDEN"] * 2
    assert all(line["level"] == "warning" and line["reason"] and line["request_id"] for line in refused)


def operators(found: Lines) -> Iterator[dict[str, Any]]:
    for node in found:
        yield node
        yield from operators(node.get("inputs", []))


def test_a_slow_statement_is_logged_with_its_plan_and_with_its_profile_when_it_comes_again(
    stopped: Server,
) -> None:
    first, again = (line for line in lines(stopped, "slow statement") if line["sql"] == SLOW)
    for line in (first, again):
        assert line["level"] == "warning"
        assert line["principal"] == "anonymous"
        assert (line["kind"], line["code"], line["rows"]) == ("query", "OK", 1)
        assert line["run_seconds"] > 0
        assert line["queue_seconds"] >= 0
    planned = {node["operator"] for node in operators(first["profile"]["plan"])}
    assert "FILTER" in planned
    measured = list(operators(again["profile"]["operators"]))
    assert {node["operator"] for node in measured} >= {"FILTER"}
    assert sum(node["seconds"] for node in measured) > 0
    assert again["profile"]["cpu_seconds"] > 0
    assert again["profile"]["peak_memory_bytes"] > 0


def test_a_profile_repeats_no_literal(stopped: Server) -> None:
    told = [json.dumps(line["profile"]) for line in lines(stopped, "slow statement")]
    assert told
    assert all("private words" not in profile for profile in told)


def test_a_quiet_log_says_nothing_of_calls(tmp_path: Path) -> None:
    server = start_server(tmp_path, "[log]\nslow_statement_seconds = 0")
    with server.client() as client:
        query(client, SLOW)
    assert server.stop() == 0
    assert lines(server, "call") == lines(server, "slow statement") == []
