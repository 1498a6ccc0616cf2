"""ADBC: the driver for Python programs, with results as Arrow tables.

pip install adbc-driver-flightsql pyarrow
"""

import sys

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa

uri = sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:31337"

with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
    # A query with parameters; the result arrives as record batches and is never rows in Python.
    cursor.execute(
        "SELECT dest, count(*) AS flights FROM nyc.flights WHERE month = ? AND carrier = ? "
        "GROUP BY dest ORDER BY flights DESC, dest LIMIT 3",
        (12, "UA"),
    )
    print(cursor.fetch_arrow_table().to_pylist())

    # A bulk load: one commit, seen by all or by nobody.
    rows = pa.table({"id": [1, 2, 3], "name": ["a", "b", None]})
    print(cursor.adbc_ingest("example_adbc", rows, mode="replace"), "rows loaded")

    # Row by row, as any Python database driver.
    cursor.execute("SELECT id, name FROM example_adbc ORDER BY id")
    print(cursor.fetchall())

    # What there is: catalogs, schemas, tables.
    for catalog in connection.adbc_get_objects(depth="tables", db_schema_filter="nyc").read_all().to_pylist():
        for schema in catalog["catalog_db_schemas"]:
            print([table["table_name"] for table in schema["db_schema_tables"]])
