"""Plain Arrow Flight, without SQL: tables are datasets that can be listed, described and read in parallel.

pip install pyarrow
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.flight as flight

uri = sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:31337"

with flight.connect(uri) as client:
    # What there is: the criteria are a pattern over schema.table.
    for info in client.list_flights(b"nyc.*"):
        print(b".".join(info.descriptor.path).decode(), info.total_records, "rows")

    # One dataset: its endpoints are groups of files, to be read at the same time.
    info = client.get_flight_info(flight.FlightDescriptor.for_path("lake", "nyc", "flights"))
    with ThreadPoolExecutor() as pool:
        parts = pool.map(lambda endpoint: client.do_get(endpoint.ticket).read_all(), info.endpoints)
        print(pa.concat_tables(parts).num_rows, "rows read")

    # A ticket is JSON and may ask for less.
    wish = {
        "path": ["lake", "nyc", "flights"],
        "columns": ["dest", "distance"],
        "filter": "distance > 4900",
        "limit": 2,
    }
    print(client.do_get(flight.Ticket(json.dumps(wish))).read_all().to_pylist())

    # An action is a name and a JSON body.
    for result in client.do_action(flight.Action("server.status", b"{}")):
        print(json.loads(result.body.to_pybytes())["catalog"])
