"""polars and pandas as their users meet the server: read a query, write a frame."""

# ruff: noqa: DTZ001 - data frames hold times without a zone
from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal


@pytest.fixture
def address(server):
    """The address as polars takes it: it picks the driver by the scheme."""
    return f"flightsql://127.0.0.1:{server.port}?transport=tcp"


FRAME = pl.DataFrame(
    {
        "i": [1, 2, None],
        "f": [1.5, float("nan"), None],
        "b": [True, None, False],
        "s": ["x", None, "é💡"],
        "bin": [b"x", None, b""],
        "d": [dt.date(2024, 2, 29), None, dt.date(1, 1, 1)],
        "t": [dt.time(1, 2, 3), None, dt.time(23, 59, 59, 999999)],
        "dt": [dt.datetime(2024, 1, 1, 12), None, dt.datetime(1969, 12, 31)],
        "dec": pl.Series([Decimal("1.50"), None, Decimal("-99999.99")], dtype=pl.Decimal(9, 2)),
        "l": [[1, None], [], None],
        "st": [{"a": 1, "b": "x"}, {"a": None, "b": None}, None],
        "tz": pl.Series([dt.datetime(2024, 1, 1)] * 3).dt.replace_time_zone("UTC"),
    }
)


@pytest.mark.filterwarnings("ignore::Warning")
def test_polars_reads_by_address(address):
    frame = pl.read_database_uri("SELECT * FROM nyc.airlines ORDER BY carrier", address, engine="adbc")
    assert frame.shape == (16, 2)
    assert frame["carrier"][0] == "9E"


def test_polars_reads_through_a_connection(connection):
    frame = pl.read_database("SELECT dest, count(*) AS n FROM nyc.flights GROUP BY dest", connection)
    assert frame["n"].sum() == 336_776


@pytest.mark.filterwarnings("ignore::Warning")
def test_polars_writes_what_it_reads(address):
    FRAME.write_database("polars_all", address, engine="adbc", if_table_exists="replace")
    back = pl.read_database_uri("SELECT * FROM polars_all", address, engine="adbc")
    assert_frame_equal(back, FRAME)


@pytest.mark.filterwarnings("ignore::Warning")
def test_polars_creates_appends_and_replaces(address, connection):
    one, two = pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2, 3]})
    one.write_database("polars_modes", address, engine="adbc", if_table_exists="replace")
    with pytest.raises(Exception, match="TABLE_ALREADY_EXISTS"):
        two.write_database("polars_modes", address, engine="adbc")
    two.write_database("polars_modes", address, engine="adbc", if_table_exists="append")
    count = "SELECT count(*) AS n FROM polars_modes"
    assert pl.read_database(count, connection)["n"][0] == 3
    two.write_database("nyc.polars_modes", address, engine="adbc", if_table_exists="replace")
    assert pl.read_database("SELECT count(*) AS n FROM nyc.polars_modes", connection)["n"][0] == 2
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE nyc.polars_modes")


def test_polars_categoricals_are_text_and_durations_are_refused(connection):
    frame = pl.DataFrame({"c": pl.Series(["u", "v", "u"], dtype=pl.Categorical)})
    frame.write_database("polars_cat", connection, engine="adbc", if_table_exists="replace")
    assert pl.read_database("SELECT c FROM polars_cat", connection)["c"].to_list() == ["u", "v", "u"]
    with pytest.raises(Exception, match="TYPE_NOT_STORABLE"):
        pl.DataFrame({"x": [dt.timedelta(1)]}).write_database("polars_dur", connection, engine="adbc")


def test_pandas_reads_and_writes(server):
    import adbc_driver_flightsql.dbapi as adbc

    frame = pd.DataFrame(
        {
            "a": [1, 2, 3],
            "t": pd.to_datetime(["2020-01-01", "2021-01-01", None]),
            "s": ["x", None, "z"],
            "c": pd.Categorical(["u", "v", "u"]),
            "n": pd.array([1, None, 3], dtype="Int64"),
        }
    )
    with adbc.connect(server.uri) as connection:
        assert frame.to_sql("pandas_t", connection, index=False, if_exists="replace") == 3
        with pytest.raises(ValueError, match="already exists"):
            frame.to_sql("pandas_t", connection, index=False)
        assert frame.to_sql("pandas_t", connection, index=False, if_exists="append") == 3
        assert frame.to_sql("pandas_t", connection, index=False, if_exists="replace") == 3
        back = pd.read_sql("SELECT * FROM pandas_t ORDER BY a", connection)
        assert back["a"].tolist() == [1, 2, 3]
        assert back["c"].tolist() == ["u", "v", "u"]
        assert back["t"].isna().tolist() == [False, False, True]
        assert len(pd.read_sql_table("pandas_t", connection)) == 3
