"""The lakehouse's own Python client: SQL, datasets, loading, transactions and typed actions.

pip install lakehouse-client (in this repository: pip install clients/python)
"""

import sys

from lakehouse_client import LakehouseClientError, connect

uri = sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:31337"

with connect(uri) as lake:
    print(lake.sql("SELECT name FROM nyc.airlines WHERE carrier = ?", ["UA"]).table().to_pylist())

    # Batch by batch, for results larger than memory.
    rows = sum(batch.num_rows for batch in lake.sql("SELECT dest FROM nyc.flights"))
    print(rows, "rows streamed")

    # A dataset by its path, its files read in parallel.
    print(
        lake.read_flight("nyc.planes", columns=["tailnum", "seats"], filter="seats > 400").num_rows, "planes"
    )

    lake.ingest("example_client", {"id": [1, 2], "name": ["a", "b"]}, mode="replace")
    with lake.transaction():
        lake.ingest("example_client", {"id": [3], "name": ["c"]}, mode="append")
    print(lake.sql("SELECT count(*) AS n FROM example_client").table().to_pylist())

    for snapshot in lake.actions.catalog.snapshots(table="example_client").snapshots:
        print("snapshot", "now" if snapshot.current else "before")

    try:
        lake.execute("SELEC 1")
    except LakehouseClientError as error:
        print(error.code)
