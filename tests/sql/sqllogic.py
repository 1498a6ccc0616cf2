"""A reader of sqllogictest files: ``statement ok``, ``statement error``, ``query`` with values row by row.

A query's rows are compared as text, the values of a row separated by tabs or at least two blanks; ``rowsort``
sorts both sides. ``statement error CODE`` wants the error to carry that code. ``${name}`` is replaced by what
``let name`` read from the single value of a query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Run = Callable[[str], Sequence[Sequence[Any]]]
"""Runs a statement; gives its rows, or raises an exception whose text carries the server's code."""


@dataclass
class Record:
    """One statement or query of a file."""

    line: int
    kind: str
    arguments: list[str]
    sql: str
    expected: list[str] = field(default_factory=list)


def read(path: Path) -> list[Record]:
    """The records of a file.

    Raises:
        ValueError: A record begins with an unknown word.
    """
    records = []
    lines = path.read_text(encoding="utf-8").split("\n")
    position = 0
    while position < len(lines):
        head = lines[position].strip()
        if not head or head.startswith("#"):
            position += 1
            continue
        kind, *arguments = head.split()
        if kind not in ("statement", "query", "let"):
            raise ValueError(f"{path.name}:{position + 1}: unknown record {kind}")
        start = position
        body, expected, target = [], [], None
        position += 1
        while position < len(lines) and lines[position].strip():
            if lines[position].strip() == "----":
                target = expected
            else:
                (body if target is None else target).append(lines[position])
            position += 1
        records.append(Record(start + 1, kind, arguments, "\n".join(body), expected))
    return records


def run_file(path: Path, run: Run) -> list[list[str]]:
    """Run a file and check it; gives the rows of every query, for comparing two ways to run it.

    Raises:
        AssertionError: A record did not behave as written; names its line.
    """
    results, names = [], {}
    for record in read(path):
        sql = re.sub(r"\$\{(\w+)\}", lambda match: names[match[1]], record.sql)
        place = f"{path.name}:{record.line}: {sql}"
        if record.kind == "let":
            names[record.arguments[0]] = text_of(run(sql)[0][0])
        elif record.kind == "statement" and record.arguments[0] == "error":
            _expect_error(place, sql, run, record.arguments[1])
        elif record.kind == "statement":
            run(sql)
        else:
            rows = ["\t".join(text_of(value) for value in row) for row in run(sql)]
            expected = [re.sub(r"\t|  +", "\t", line.strip()) for line in record.expected]
            if "rowsort" in record.arguments:
                rows, expected = sorted(rows), sorted(expected)
            assert rows == expected, f"{place}\ngot {rows}\nnot {expected}"
            results.append(rows)
    return results


def _expect_error(place: str, sql: str, run: Run, code: str) -> None:
    try:
        run(sql)
    except Exception as error:
        if f"[{code}]" not in str(error):
            raise AssertionError(f"{place}\ngot {error}") from error
        return
    raise AssertionError(f"{place}\nexpected [{code}], but it ran")


def text_of(value: Any) -> str:
    """A value as the files write it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    if value == "":
        return "(empty)"
    return str(value)
