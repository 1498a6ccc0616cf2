"""pandas over ADBC: read a query into a data frame, write a data frame into a table.

pip install pandas adbc-driver-flightsql pyarrow
"""

import sys

import adbc_driver_flightsql.dbapi as adbc
import pandas as pd

uri = sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:31337"

with adbc.connect(uri, autocommit=True) as connection:
    weather = pd.read_sql(
        "SELECT time_hour, origin, temp FROM nyc.weather WHERE temp IS NOT NULL",
        connection,
        dtype_backend="pyarrow",
    )
    print(weather.dtypes)

    coldest = weather.groupby("origin", as_index=False)["temp"].min()
    print(coldest.to_sql("example_pandas", connection, if_exists="replace", index=False), "rows written")
    print(pd.read_sql("SELECT * FROM example_pandas ORDER BY origin", connection))
