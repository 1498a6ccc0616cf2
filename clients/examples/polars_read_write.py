"""polars over ADBC: read a query into a data frame, write a data frame into a table.

pip install polars adbc-driver-flightsql pyarrow
"""

import sys

import adbc_driver_flightsql.dbapi as adbc
import polars as pl

uri = sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:31337"

with adbc.connect(uri, autocommit=True) as connection:
    delays = pl.read_database(
        "SELECT origin, month, avg(dep_delay) AS delay FROM nyc.flights GROUP BY ALL", connection
    )
    print(delays.pivot("origin", index="month", values="delay").sort("month").head(3))

    worst = delays.sort("delay", descending=True).head(5)
    print(worst.write_database("example_polars", connection, if_table_exists="replace"), "rows written")

# The same in one call, without a connection of one's own; polars wants the address in its own form.
address = uri.removeprefix("grpc://")
print(
    pl.read_database_uri(
        "SELECT origin, month, delay FROM example_polars ORDER BY delay DESC LIMIT 2",
        f"flightsql://{address}?transport=tcp",
        engine="adbc",
    )
)
