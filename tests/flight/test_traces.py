"""Traces of a real server, as a collector gets them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import start_server
from otlp_collector import CollectedSpan, Collector, collecting
from wire import call, command, query

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "seldom-seen-text"


def traced(sampled: bool = True) -> flight.FlightCallOptions:
    """What a client sends that is itself traced."""
    header = f"00-{TRACE}-{PARENT}-0{int(sampled)}"
    return flight.FlightCallOptions(headers=[(b"traceparent", header.encode())])


@dataclass
class Run:
    """What was seen of a server that has stopped."""

    collector: Collector
    log: list[str]

    def lines(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log if line.startswith("{")]
        return [line for line in found if line.get("event") == event]


def config(endpoint: str, more: str = "") -> str:
    return f'[log]\nlevel = "debug"\n[telemetry]\ntraces = "otlp"\notlp_endpoint = "{endpoint}"\n{more}'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with collecting() as collector:
        server = start_server(tmp_path_factory.mktemp("traces"), config(collector.url))
        try:
            with server.client() as client:
                query(client, f"SELECT '{SECRET}' AS a, * FROM range(300000) t(n)", traced())
                with server.adbc() as connection, connection.cursor() as cursor:
                    cursor.adbc_ingest("traced", pa.table({"a": [1]}))
                query(client, "SELECT a FROM traced")
                with pytest.raises((pa.ArrowException, flight.FlightError)):
                    query(client, f"SELECT '{SECRET}' FROM nowhere")
                with pytest.raises((pa.ArrowException, flight.FlightError)):
                    query(client, f"SELECT CAST('{SECRET}' AS INT) FROM range(3)")
                call(client, "server.status")
        finally:
            status = server.stop()
        assert status == 0, "".join(server.log[-50:])
        yield Run(collector, server.log)


def names(spans: list[CollectedSpan]) -> list[str]:
    return [span.name for span in spans]


def test_calls_join_the_trace_of_the_client(run: Run) -> None:
    info, get = run.collector.calls("GetFlightInfo")[0], run.collector.calls("DoGet")[0]
    for span in (info, get):
        assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
        assert span.name == f"arrow.flight.protocol.FlightService/{span.attributes['rpc.method']}"
        assert span.attributes["rpc.system"] == "grpc"
        assert span.attributes["lakehouse.principal"] == "anonymous"
        assert span.attributes["lakehouse.session"]
        assert span.attributes["lakehouse.kind"] == "query"
        assert not span.failed
    assert info.attributes["lakehouse.statement"] == get.attributes["lakehouse.statement"]
    assert info.resource["service.name"] == "lakehouse"


def test_a_call_without_trace_headers_begins_a_trace(run: Run) -> None:
    own = [span for span in run.collector.spans if span.is_server and span.trace_id != TRACE]
    assert own
    assert all(span.parent_id == "" for span in own)
    assert len({span.trace_id for span in own}) == len(own)


def test_the_parts_of_a_query_are_under_its_calls(run: Run) -> None:
    info, get = run.collector.calls("GetFlightInfo")[0], run.collector.calls("DoGet")[0]
    assert names(run.collector.parts(info)) == ["decode", "gate", "plan"]
    (plan,) = (part for part in run.collector.parts(info) if part.name == "plan")
    assert "bind" in names(run.collector.parts(plan))
    assert names(run.collector.parts(get)) == ["decode", "execute", "stream"]


def test_a_call_lasts_until_its_stream_has_ended(run: Run) -> None:
    get = run.collector.calls("DoGet")[0]
    stream = next(part for part in run.collector.parts(get) if part.name == "stream")
    assert stream.attributes["lakehouse.rows"] == 300_000
    assert stream.attributes["lakehouse.batches"] > 1
    for part in run.collector.below(get):
        assert get.start_ns <= part.start_ns <= part.end_ns <= get.end_ns


def test_every_span_is_part_of_a_call(run: Run) -> None:
    known = {span.span_id for span in run.collector.spans}
    strays = [span for span in run.collector.spans if not span.is_server and span.parent_id not in known]
    assert names(strays) == []


def test_writing_a_table_shows_what_was_done_to_storage(run: Run) -> None:
    (written,) = run.collector.calls("DoPut")
    done = [part for part in run.collector.below(written) if part.name.startswith("storage.")]
    assert {"storage.upload", "storage.put_new"} <= set(names(done))
    assert all(part.attributes["lakehouse.outcome"] for part in done)
    assert all("lakehouse.key" in part.attributes for part in done)


def test_a_failed_call_carries_its_code_and_is_told_as_failed(run: Run) -> None:
    failed = [span for span in run.collector.spans if span.is_server and span.failed]
    assert [span.attributes["error.type"] for span in failed] == ["TABLE_NOT_FOUND", "SQL_FAILED"]


def test_no_literal_of_a_statement_is_exported(run: Run) -> None:
    assert run.collector.raw
    assert all(SECRET.encode() not in body for body in run.collector.raw)


def test_log_lines_name_the_trace_of_their_call(run: Run) -> None:
    known = {span.span_id: span for span in run.collector.spans if span.is_server}
    lines = run.lines("call")
    assert len(lines) == len(known)
    for line in lines:
        span = known[line["span_id"]]
        assert line["trace_id"] == span.trace_id
        assert line["request_id"] == span.attributes["lakehouse.request_id"]


def test_a_share_of_nothing_traces_only_what_clients_trace(tmp_path: Path) -> None:
    with collecting() as collector:
        server = start_server(tmp_path, config(collector.url, "sample_ratio = 0.0"))
        with server.client() as client:
            query(client, "SELECT 1")
            query(client, "SELECT 2", traced(sampled=False))
            query(client, "SELECT 3", traced())
        assert server.stop() == 0
        assert {span.trace_id for span in collector.spans} == {TRACE}
        assert len([span for span in collector.spans if span.is_server]) == 2


def test_a_malformed_trace_header_is_ignored(tmp_path: Path) -> None:
    with collecting() as collector:
        server = start_server(tmp_path, config(collector.url))
        with server.client() as client:
            for header in (b"", b"00", b"zz-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"x" * 4000):
                options = flight.FlightCallOptions(headers=[(b"traceparent", header)])
                assert query(client, "SELECT 1", options).num_rows == 1
        assert server.stop() == 0
        assert all(span.parent_id == "" for span in collector.spans if span.is_server)


def test_waiting_for_a_place_is_part_of_a_call(tmp_path: Path) -> None:
    with collecting() as collector:
        server = start_server(tmp_path, config(collector.url) + "[limits]\nconcurrent_statements = 1")
        with server.client() as first, server.client() as second:
            info = first.get_flight_info(command("CommandStatementQuery", query="FROM range(100000000)"))
            reader = first.do_get(info.endpoints[0].ticket)
            reader.read_chunk()  # takes the only place, until it has not been read for a while
            query(second, "SELECT 1")
            reader.cancel()
        assert server.stop() == 0
        left, later = collector.calls("DoGet")
        assert left.attributes["error.type"] == "CANCELLED"
        assert names(collector.parts(later)) == ["decode", "queue", "execute", "stream"]


def test_a_collector_that_is_away_costs_spans_but_no_call(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but not listening
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/traces"
        server = start_server(tmp_path, config(endpoint))
        with server.client() as client:
            assert all(query(client, f"SELECT {i}").num_rows == 1 for i in range(20))
        assert server.stop() == 0


def test_traces_can_go_to_standard_output(tmp_path: Path) -> None:
    server = start_server(tmp_path, '[telemetry]\ntraces = "stdout"')
    with server.client() as client:
        query(client, "SELECT 1")
    assert server.stop() == 0
    written = [json.loads(line) for line in server.log if line.startswith("{")]
    spans = [line for line in written if "parent_id" in line]
    assert {"plan", "stream", "arrow.flight.protocol.FlightService/DoGet"} <= {s["name"] for s in spans}
