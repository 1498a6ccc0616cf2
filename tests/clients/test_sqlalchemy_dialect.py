"""SQLAlchemy through sqlalchemy-adbc."""

from __future__ import annotations

import pandas as pd
import pytest
import sqlalchemy


@pytest.fixture
def engine(server):
    made = sqlalchemy.create_engine(f"adbc+flightsql://127.0.0.1:{server.port}?tls=false")
    yield made
    made.dispose()


def test_select_with_parameters(engine):
    with engine.connect() as connection:
        statement = sqlalchemy.text("SELECT name FROM nyc.airlines WHERE carrier = :c")
        assert connection.execute(statement, {"c": "AA"}).scalar_one() == "American Airlines Inc."


def test_tables_are_reflected_and_queried(engine):
    inspector = sqlalchemy.inspect(engine)
    # It lists tables of type "table" only; ours are "TABLE", as JDBC wants it.
    assert "nyc" in inspector.get_schema_names()
    assert [c["name"] for c in inspector.get_columns("airlines", schema="nyc")] == ["carrier", "name"]
    airlines = sqlalchemy.Table("airlines", sqlalchemy.MetaData(), schema="nyc", autoload_with=engine)
    with engine.connect() as connection:
        found = connection.execute(
            sqlalchemy.select(airlines.c.name).where(airlines.c.carrier == "UA")
        ).scalar_one()
    assert found == "United Air Lines Inc."


def test_pandas_reads_through_an_engine(engine):
    with engine.connect() as connection:
        assert len(pd.read_sql(sqlalchemy.text("SELECT * FROM nyc.airlines"), connection)) == 16


def test_an_error_carries_the_servers_code(engine):
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.DBAPIError, match="TABLE_NOT_FOUND"):
        connection.execute(sqlalchemy.text("SELECT * FROM nope"))
