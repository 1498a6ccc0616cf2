"""The dashboard and the alert rules in ``deploy``, held to the metrics that a real server gives."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import promql_parser as promql
import pyarrow as pa
import pyarrow.flight as flight
import pytest
import yaml
from callers import Caller, presenting, start_guarded, token
from conftest import ROOT
from ports import free_ports
from prometheus_client.parser import text_string_to_metric_families as parse
from wire import query

DASHBOARD = json.loads((ROOT / "deploy/grafana/lakehouse.json").read_text())
RULES = yaml.safe_load((ROOT / "deploy/prometheus/lakehouse-alerts.yml").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
FAILURE = (pa.ArrowException, flight.FlightError)
BY_PROMETHEUS = {"up": {"job", "instance"}}
BY_SCRAPING = {"job", "instance"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


CONFIG = """
[ops]
http_port = {port}
[limits]
result_bytes = 1000
[[profiles]]
name = "meaning"
datasets = ["lake.docs.*"]
"""


@dataclass
class Offered:
    """Which series a server offers: label → values seen, by name of the series."""

    series: dict[str, dict[str, set[str]]] = field(default_factory=dict)

    def labels(self, name: str) -> set[str]:
        return BY_PROMETHEUS.get(name) or {*self.series[name], *BY_SCRAPING}


@dataclass(frozen=True)
class Selected:
    """A series that an expression asks for, and the labels that it is asked by."""

    where: str
    name: str
    matchers: tuple[tuple[str, str, str], ...]
    grouped_by: frozenset[str]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            # Grafana puts its variables in before Prometheus sees the text.
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def selected(where: str, expression: str) -> list[Selected]:
    found: list[Selected] = []
    grouping: list[frozenset[str]] = []

    def enter(node: Any) -> None:
        if isinstance(node, promql.AggregateExpr):
            grouping.append(frozenset(node.modifier.labels if node.modifier else ()))
        selector = node.vector_selector if isinstance(node, promql.MatrixSelector) else node
        if isinstance(selector, promql.VectorSelector):
            matchers = tuple((m.name, str(m.op), m.value) for m in selector.matchers.matchers)
            grouped = frozenset().union(*grouping)
            found.append(Selected(where, selector.name, matchers, grouped))

    def leave(node: Any) -> None:
        if isinstance(node, promql.AggregateExpr):
            grouping.pop()

    promql.walk(promql.parse(expression), enter, leave)
    return found


SELECTED = [each for where, text in expressions() for each in selected(where, text)]


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Offered:
    """What a server offers that has seen work, failures and refusals."""
    (port,) = free_ports(1)
    directory = tmp_path_factory.mktemp("dashboard")
    server = start_guarded(directory, CONFIG.format(port=port), {"dashboards": ["writer"]})
    try:
        with Caller(server, "dashboards").adbc() as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("counted", pa.table({"a": [1]}))
        with server.client() as client:
            known = presenting(token("dashboards"))
            assert query(client, "SELECT * FROM counted", known).num_rows == 1
            for text, options in (
                ("FROM nowhere", known),
                ("FROM range(100000)", known),
                ("SELECT 1", presenting("?" * 40)),
            ):
                with contextlib.suppress(*FAILURE):
                    query(client, text, options)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
    finally:
        status = server.stop()
    assert status == 0, "".join(server.log[-50:])
    return _offered(text)


def _offered(text: str) -> Offered:
    found = Offered()
    for family in parse(text):
        for suffix in SUFFIXES.get(family.type, ()):
            found.series.setdefault(family.name + suffix, {})
        for sample in family.samples:
            labels = found.series.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


@pytest.mark.parametrize("each", SELECTED, ids=lambda each: f"{each.where}: {each.name}")
def test_every_series_that_is_asked_for_is_offered_with_its_labels(offered: Offered, each: Selected) -> None:
    assert each.name in {*offered.series, *BY_PROMETHEUS}
    # What nothing has happened to yet has no labels to compare with.
    if offered.series.get(each.name) or each.name in BY_PROMETHEUS:
        asked = {name for name, _, _ in each.matchers} | each.grouped_by
        assert asked <= offered.labels(each.name)


def test_the_server_had_something_to_show(offered: Offered) -> None:
    labelled = {each.name for each in SELECTED if each.grouped_by - {"job", "instance"}}
    silent = {name for name in labelled if not offered.series[name]}
    assert silent == set()
    assert offered.series["lakehouse_authentication_attempts_total"]["outcome"] == {"failed"}
    assert offered.series["lakehouse_limit_refusals_total"]["limit"] == {"limits.result_bytes"}
    assert {"finished", "failed"} <= offered.series["lakehouse_statements_total"]["state"]
    assert {"OK", "TABLE_NOT_FOUND"} <= offered.series["lakehouse_statements_total"]["code"]
    assert "ok" in offered.series["lakehouse_storage_operations_total"]["outcome"]


def test_every_metric_of_the_server_is_shown_or_alerted_on(offered: Offered) -> None:
    asked = {re.sub(r"_(bucket|sum|count|total)$", "", each.name) for each in SELECTED}
    own = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in offered.series}
    unused = {name for name in own if name.startswith("lakehouse_")} - asked
    assert unused == {"lakehouse_draining"}


def test_the_dashboard_can_be_imported_anywhere() -> None:
    names = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert names["datasource"]["type"] == "datasource"
    assert names["datasource"]["query"] == "prometheus"
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["description"]
    for _, text in expressions():
        assert set(re.findall(r"\$(\w+)", text)) <= {*names, "__rate_interval"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_alert_rules_are_complete() -> None:
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert promql.parse_duration(rule.get("for", "1m")).total_seconds() > 0
        # A summary may name only labels that the expression leaves.
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        kept = [each.grouped_by for each in selected(rule["alert"], rule["expr"]) if each.grouped_by]
        assert all(named <= labels for labels in kept), rule["alert"]


def test_the_scrape_configuration_loads_the_rules() -> None:
    (rules,) = PROMETHEUS["rule_files"]
    assert (ROOT / "deploy/prometheus" / rules).is_file()
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "lakehouse"
