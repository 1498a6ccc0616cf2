"""flightsql-dbapi, which wants SQLAlchemy 1 and so lives in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PYTHON = Path(__file__).resolve().parents[2] / "build/flightsql-dbapi/bin/python"
PROGRAM = """
from flightsql import FlightSQLClient, connect
from flightsql.client import TableRef
client = FlightSQLClient(host="127.0.0.1", port={port}, insecure=True)
with connect(client) as connection:
    cursor = connection.cursor()
    cursor.execute("SELECT carrier, name FROM nyc.airlines ORDER BY carrier")
    assert [c[0] for c in cursor.description] == ["carrier", "name"], cursor.description
    assert cursor.fetchone()[0] == "9E"
    assert len(cursor.fetchall()) == 15
    cursor.execute("SELECT 1 WHERE false")
    assert cursor.fetchall() == []
    try:
        cursor.execute("SELECT nope")
        cursor.fetchall()
    except Exception as error:
        assert "[SQL_INVALID]" in str(error), error
    else:
        raise AssertionError("no error")
info = client.get_tables(db_schema_filter_pattern="nyc", include_schema=True)
table = client.do_get(info.endpoints[0].ticket).read_all()
assert {{"airlines", "flights"}} <= set(table.column("table_name").to_pylist())
info = client.get_primary_keys(TableRef(None, "nyc", "airlines"))
assert client.do_get(info.endpoints[0].ticket).read_all().column("column_name").to_pylist() == ["carrier"]
info = client.get_sql_info([])
assert client.do_get(info.endpoints[0].ticket).read_all().num_rows > 50
print("well")
"""


def test_cursor_errors_and_metadata(server):
    if not PYTHON.exists():
        reason = "flightsql-dbapi is not installed: make install"
        if os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
            pytest.fail(reason)
        pytest.skip(reason)
    run = subprocess.run(
        [PYTHON, "-c", PROGRAM.format(port=server.port)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.stdout.strip() == "well", run.stderr
