"""SQLAlchemy through the ADBC dialect: expressions, reflection, and what is built on SQLAlchemy.

pip install 'sqlalchemy-adbc[flightsql]' pyarrow
"""

import sys

import sqlalchemy as sa

uri = sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:31337"
address = uri.removeprefix("grpc://")
engine = sa.create_engine(f"adbc+flightsql://{address}?tls=false")  # the dialect's default is TLS

with engine.connect() as connection:
    print(sa.inspect(connection).get_schema_names())

    flights = sa.Table("flights", sa.MetaData(), schema="nyc", autoload_with=connection)
    query = (
        sa.select(flights.c.origin, sa.func.count().label("flights"))
        .where(flights.c.dest == "LAX")
        .group_by(flights.c.origin)
        .order_by(flights.c.origin)
    )
    for row in connection.execute(query):
        print(row.origin, row.flights)

    print(
        connection.execute(
            sa.text("SELECT name FROM nyc.airlines WHERE carrier = :code"), {"code": "UA"}
        ).scalar()
    )
engine.dispose()
