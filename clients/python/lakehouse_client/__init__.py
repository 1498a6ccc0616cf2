"""Python client of the Lakehouse Flight SQL server.

>>> from lakehouse_client import connect
>>> with connect("grpc://127.0.0.1:31337") as lake:
...     table = lake.sql("SELECT carrier, count(*) AS n FROM nyc.flights GROUP BY carrier").table()
"""

from lakehouse_client.client import DEFAULT_URI, Client, Flight, connect
from lakehouse_client.errors import LakehouseClientError
from lakehouse_client.messages import OnPart, OnProgress
from lakehouse_client.objects import StoredObject
from lakehouse_client.result import Result

__all__ = [
    "DEFAULT_URI",
    "Client",
    "Flight",
    "LakehouseClientError",
    "OnPart",
    "OnProgress",
    "Result",
    "StoredObject",
    "connect",
]
