"""Where the time of slow statements went.

DuckDB's profiler costs every statement 45 to 65 µs, a tenth of a short one, and whether a statement is slow
is known only afterwards. So a text that was slow is profiled when it comes again, and the first time there
is its plan instead.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

import duckdb

from lakehouse.engine.running import StatementRecord

_KEPT = 256
_KEPT_CHARACTERS = 20_000
_MAX_DEPTH = 60
# Conditions and expressions are left out: they repeat the literals of the statement.
_TOLD = ("Table", "Function", "Join Type", "Type", "Estimated Cardinality", "Total Files Read")


class Profiler:
    """Remembers which queries were slow, and finds out why.

    Args:
        slow_s: How long a statement has to run to be slow; 0 switches all of it off.
    """

    def __init__(self, slow_s: float) -> None:
        self._slow_s = slow_s
        self._slow: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
        """Switch profiling on for a query that was slow before; gives whether it did."""
        if sql not in self._slow:
            return False
        connection.execute("PRAGMA enable_profiling = 'no_output'").fetchall()
        return True

    def end(
        self,
        connection: duckdb.DuckDBPyConnection,
        record: StatementRecord,
        sql: str,
        parameters: Any,
        *,
        profiled: bool,
    ) -> None:
        """Note in the record of a query that has run where its time went, if it took long."""
        slow = bool(self._slow_s) and record.run_s >= self._slow_s
        if not (slow or profiled):
            return
        try:
            if profiled:
                try:
                    record.profile = _profile(connection, record)
                finally:
                    connection.execute("PRAGMA disable_profiling").fetchall()
            if slow and record.profile is None:
                record.profile = {"plan": _plan(connection, sql, parameters)}
        except duckdb.Error as error:
            # The statement itself has ended by now: this must not become its failure.
            record.profile = {"unavailable": type(error).__name__}
        if slow and len(sql) <= _KEPT_CHARACTERS:
            self._remember(sql)

    def _remember(self, sql: str) -> None:
        with self._lock:
            self._slow[sql] = None
            self._slow.move_to_end(sql)
            if len(self._slow) > _KEPT:
                self._slow.popitem(last=False)


def _profile(connection: duckdb.DuckDBPyConnection, record: StatementRecord) -> dict[str, Any] | None:
    """What DuckDB measured of the statement that ran last; None where it was interrupted."""
    found = json.loads(connection.get_profiling_information("json"))
    operators = [_measured(node, 0) for node in found.get("operator", ())]
    if not operators:
        return None
    total, system = found.get("query", {}), found.get("system", {})
    peak_bytes = int(system.get("peak_buffer_memory", 0))
    record.memory_bytes = max(record.memory_bytes, peak_bytes)
    return {
        "cpu_seconds": total.get("cpu_time", 0.0),
        "rows_scanned": total.get("total_rows_scanned", 0),
        "peak_memory_bytes": peak_bytes,
        "peak_spill_bytes": system.get("peak_temp_dir_size", 0),
        "operators": operators,
    }


def _measured(node: dict[str, Any], depth: int) -> dict[str, Any]:
    return {
        "operator": node.get("type", "").strip(),
        "seconds": round(node.get("timing", 0.0), 6),
        "rows": node.get("intermediate_rows", 0),
        **_told(node),
        **_inputs([_measured(child, depth + 1) for child in _children(node, depth)]),
    }


def _plan(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Any) -> list[dict[str, Any]]:
    """The plan of a query, as DuckDB would make it now."""
    (row,) = connection.execute(f"EXPLAIN (FORMAT json) {sql}", parameters).fetchall()
    return [_planned(node, 0) for node in json.loads(row[1])]


def _planned(node: dict[str, Any], depth: int) -> dict[str, Any]:
    return {
        "operator": node.get("name", "").strip(),
        **_told(node),
        **_inputs([_planned(child, depth + 1) for child in _children(node, depth)]),
    }


def _children(node: dict[str, Any], depth: int) -> list[dict[str, Any]]:
    return node.get("children", []) if depth < _MAX_DEPTH else []


def _told(node: dict[str, Any]) -> dict[str, Any]:
    extra = node.get("extra_info", {})
    return {key.lower().replace(" ", "_"): extra[key] for key in _TOLD if key in extra}


def _inputs(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"inputs": found} if found else {}
