"""What the SQL engine uses at the moment, and whether it answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

    from lakehouse.engine.engine import Engine

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """Memory and spill of the engine, in bytes; ``memory`` by DuckDB's own lower-case names of its parts."""

    memory: dict[str, int]
    memory_limit: int
    spilled: int


def check_engine(engine: Engine) -> None:
    """Let the engine compute something.

    Raises:
        LakehouseError: It cannot.
    """
    with _cursor(engine) as cursor:
        cursor.execute("SELECT 1").fetchall()


def usage(engine: Engine) -> EngineUsage:
    """What the engine uses now.

    Raises:
        LakehouseError: It does not answer.
    """
    with _cursor(engine) as cursor:
        rows = cursor.execute(
            "SELECT lower(tag), memory_usage_bytes, temporary_storage_bytes FROM duckdb_memory()"
        ).fetchall()
        (limit,) = cursor.execute("SELECT current_setting('memory_limit')").fetchall()[0]
    memory = {str(tag): int(used) for tag, used, _ in rows}
    return EngineUsage(memory, _bytes(limit), sum(int(spilled) for _, _, spilled in rows))


def memory_used(engine: Engine) -> int:
    """Memory that the engine uses now, in bytes.

    Raises:
        LakehouseError: It does not answer.
    """
    with _cursor(engine) as cursor:
        rows = cursor.execute("SELECT sum(memory_usage_bytes)::BIGINT FROM duckdb_memory()").fetchall()
    return int(rows[0][0] or 0)


def temporary_tables(engine: Engine) -> dict[str, int]:
    """How many temporary tables and views each session's own database holds, by its name.

    What a transaction has not committed is not seen; so nobody has to wait for one.

    Raises:
        LakehouseError: The engine does not answer.
    """
    with _cursor(engine) as cursor:
        rows = cursor.execute(
            "SELECT database_name, count(*) FROM (SELECT database_name FROM duckdb_tables() UNION ALL "
            "SELECT database_name FROM duckdb_views() WHERE NOT internal) "
            "WHERE starts_with(database_name, '~') GROUP BY 1"
        ).fetchall()
    return {str(name): int(count) for name, count in rows}


@contextmanager
def _cursor(engine: Engine) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.errors():
        cursor = engine.database.private_cursor()
        try:
            yield cursor
        finally:
            cursor.close()


def _bytes(amount: str) -> int:
    """DuckDB tells sizes as text only: ``3.2 GiB``."""
    number, _, unit = amount.partition(" ")
    return int(float(number) * _UNITS.get(unit, 1))
