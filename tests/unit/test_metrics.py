"""What is counted, and under which labels."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from flight_server.metrics import OTHER, Metrics
from flight_server.readiness import Readiness
from lakehouse.config import Settings
from lakehouse.engine.running import StatementRecord, StatementState
from lakehouse.errors import LimitExceeded
from lakehouse.runtime import Lakehouse

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def lakehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lakehouse]:
    path = tmp_path_factory.mktemp("metrics") / "bucket"
    settings = Settings.model_validate({"buckets": [{"path": path}], "profiles": [{"name": "fresh"}]})
    opened = Lakehouse(settings)
    yield opened
    opened.close()


@pytest.fixture
def metrics(lakehouse: Lakehouse) -> Metrics:
    return Metrics(lakehouse, Readiness.of(lakehouse))


def samples(metrics: Metrics) -> Samples:
    """Every sample by name and labels, as a scrape gives it."""
    body, _ = metrics.exposition("")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


def record(**known: object) -> StatementRecord:
    return StatementRecord("s-1", datetime.now(UTC), **known)  # type: ignore[arg-type]


def test_a_statement_is_counted_by_kind_state_and_code(metrics: Metrics) -> None:
    finished = record(kind="query", state=StatementState.FINISHED, rows=7, bytes=56, run_s=0.02, queue_s=0.3)
    metrics.statement(finished)
    metrics.statement(finished)
    metrics.statement(record(kind="dml", state=StatementState.FAILED, code="SQL_INVALID"))
    found = samples(metrics)

    def counted(kind: str, state: str, code: str) -> float:
        return found["lakehouse_statements_total", (("code", code), ("kind", kind), ("state", state))]

    assert counted("query", "finished", "OK") == 2
    assert counted("dml", "failed", "SQL_INVALID") == 1
    assert found["lakehouse_statement_rows_total", (("kind", "query"),)] == 14
    assert found["lakehouse_statement_bytes_total", (("kind", "query"),)] == 112
    assert found["lakehouse_statement_duration_seconds_bucket", (("kind", "query"), ("le", "0.025"))] == 2
    assert found["lakehouse_statement_duration_seconds_bucket", (("kind", "query"), ("le", "0.01"))] == 0
    assert found["lakehouse_statement_queue_seconds_sum", ()] == pytest.approx(0.6)


def test_no_text_of_a_client_becomes_a_label(metrics: Metrics) -> None:
    metrics.statement(record(kind="", state=StatementState.FAILED, code="'; DROP TABLE x"))
    metrics.rpc("DoGet", "made up", 0.1)
    metrics.refusal(LimitExceeded("no more of limits.made_up", "raise anything.else"))
    found = samples(metrics)
    labels = {value for _, pairs in found for _, value in pairs}
    assert not {"'; DROP TABLE x", "made up", "limits.made_up", "anything.else"} & labels
    assert found["lakehouse_rpcs_total", (("code", OTHER), ("method", "DoGet"))] == 1
    assert found["lakehouse_limit_refusals_total", (("limit", OTHER),)] == 1


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (LimitExceeded("1000 are open", "close some, or raise session.max_prepared_per_session"),
         "session.max_prepared_per_session"),
        (LimitExceeded("256 statements wait (limits.queued_statements)"), "limits.queued_statements"),
        (LimitExceeded("out of memory", "raise engine.memory_limit"), "engine.memory_limit"),
        (LimitExceeded("something else"), OTHER),
    ],
)  # fmt: skip
def test_a_refusal_is_counted_under_the_setting_that_its_message_names(
    metrics: Metrics, error: LimitExceeded, limit: str
) -> None:
    metrics.refusal(error)
    assert samples(metrics)["lakehouse_limit_refusals_total", (("limit", limit),)] == 1


def test_two_servers_in_one_process_count_for_themselves(lakehouse: Lakehouse, metrics: Metrics) -> None:
    other = Metrics(lakehouse, Readiness.of(lakehouse))
    metrics.authentication("password", "ok")
    key = ("lakehouse_authentication_attempts_total", (("method", "password"), ("outcome", "ok")))
    assert samples(metrics)[key] == 1
    assert key not in samples(other)


def test_a_scrape_tells_the_state_of_engine_process_and_server(
    lakehouse: Lakehouse, metrics: Metrics
) -> None:
    found = samples(metrics)
    assert found["lakehouse_engine_memory_limit_bytes", ()] > 1_000_000
    assert found["lakehouse_engine_memory_bytes", (("part", "parquet_reader"),)] >= 0
    assert found["process_resident_memory_bytes", ()] > 10_000_000
    assert found["lakehouse_healthy", (("check", "storage"),)] == 1
    assert found["lakehouse_draining", ()] == 0
    assert found["lakehouse_sessions_limit", ()] == lakehouse.settings.session.max_sessions
    assert found["lakehouse_uptime_seconds", ()] >= 0
    info = [dict(labels) for (name, labels) in found if name == "lakehouse_build_info"]
    assert [sorted(labels) for labels in info] == [["duckdb", "pyarrow", "python", "version"]]


def test_open_sessions_and_transactions_are_told(lakehouse: Lakehouse, metrics: Metrics) -> None:
    session = lakehouse.sessions.get("metrics-test", lakehouse.anonymous)
    session.begin()
    found = samples(metrics)
    assert found["lakehouse_sessions", ()] == 1
    assert found["lakehouse_transactions", ()] == 1
    lakehouse.sessions.close(session)
    assert samples(metrics)["lakehouse_sessions", ()] == 0


def test_prometheus_gets_openmetrics_where_it_asks_for_it(metrics: Metrics) -> None:
    metrics.rpc("DoGet", "OK", 0.1)
    body, kind = metrics.exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in parse_openmetrics(body.decode())}
    assert {"lakehouse_rpcs", "lakehouse_build_info"} <= families
    assert metrics.exposition("")[1].startswith("text/plain; version=0.0.4")


def test_names_and_texts_follow_the_conventions_of_prometheus(metrics: Metrics) -> None:
    families = [family for family in metrics.registry.collect() if family.name.startswith("lakehouse_")]
    assert len(families) > 15
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith("_total")
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def reference(metrics: Metrics) -> str:
    """The table of the server's own metrics, as the documentation has it."""
    rows = ["| Metric | Type | Labels | What |", "|---|---|---|---|"]
    for family in sorted(metrics.registry.collect(), key=lambda family: family.name):
        if not family.name.startswith("lakehouse_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in labels_of(metrics, family.name))
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows)


def labels_of(metrics: Metrics, name: str) -> list[str]:
    """The labels of a metric, whether or not anything has happened to it yet."""
    known = {
        metric._name: metric._labelnames
        for metric in metrics.registry._collector_to_names
        if isinstance(metric, MetricWrapperBase)
    }
    if name in known:
        return list(known[name])
    family = next(family for family in metrics.registry.collect() if family.name == name)
    return list(dict.fromkeys(label for sample in family.samples for label in sample.labels))


def test_the_documentation_lists_exactly_the_metrics_that_there_are(metrics: Metrics) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    section = text.partition("<!-- metrics")[2].partition("-->")[2].partition("\n## ")[0].strip()
    assert section == reference(metrics), "docs/operations.md should have:\n" + reference(metrics)
