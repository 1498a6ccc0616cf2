"""``lakehouse demo``: a server with sample data, first answers, and how to connect."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import adbc_driver_flightsql.dbapi as adbc
from lakehouse_client import connect
from rich.console import Console
from rich.syntax import Syntax

from flight_server import app
from flight_server.cli import call_with_progress
from flight_server.logs import configure_logging
from flight_server.output import fitting, print_table
from lakehouse.config import Settings
from lakehouse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the SQL that answers it."""

    question: str
    sql: str


EXAMPLES: tuple[Example, ...] = (
    Example(
        "How much is there?",
        """SELECT (SELECT count(*) FROM nyc.flights) AS flights,
       (SELECT count(*) FROM nyc.airlines) AS airlines,
       (SELECT count(*) FROM nyc.airports) AS airports,
       (SELECT count(*) FROM nyc.planes) AS planes,
       (SELECT count(*) FROM nyc.weather) AS weather""",
    ),
    Example(
        "Where did New York fly to in 2013?",
        """SELECT a.name AS airport, count(*) AS flights, round(avg(f.air_time)) AS minutes
FROM nyc.flights f JOIN nyc.airports a ON a.faa = f.dest
GROUP BY a.name ORDER BY flights DESC LIMIT 5""",
    ),
    Example(
        "Which airlines were late?",
        """SELECT l.name AS airline, count(*) AS flights, round(avg(f.arr_delay), 1) AS arrival_delay,
       round(100.0 * count(*) FILTER (f.arr_delay > 60) / count(*), 1) AS percent_over_an_hour
FROM nyc.flights f JOIN nyc.airlines l USING (carrier)
GROUP BY l.name ORDER BY arrival_delay DESC LIMIT 5""",
    ),
    Example(
        "Does it matter when one leaves?",
        """SELECT f.hour, count(*) AS flights, median(f.dep_delay) AS median_delay,
       quantile_cont(f.dep_delay, 0.9) AS one_in_ten_waits
FROM nyc.flights f WHERE f.hour IN (6, 9, 12, 15, 18, 21) GROUP BY f.hour ORDER BY f.hour""",
    ),
    Example(
        "Does the wind matter?",
        """SELECT CASE WHEN w.wind_speed < 10 THEN '1 calm'
            WHEN w.wind_speed < 20 THEN '2 breeze' ELSE '3 wind' END AS weather,
       count(*) AS flights, round(avg(f.dep_delay), 1) AS departure_delay
FROM nyc.flights f JOIN nyc.weather w USING (origin, time_hour)
WHERE w.wind_speed IS NOT NULL GROUP BY ALL ORDER BY weather""",
    ),
    Example(
        "Which of the largest planes flew most?",
        """SELECT p.tailnum, p.manufacturer, p.model, p.seats,
       count(*) AS flights, sum(f.distance)::BIGINT AS miles
FROM nyc.flights f JOIN nyc.planes p USING (tailnum)
GROUP BY ALL ORDER BY p.seats DESC, flights DESC LIMIT 5""",
    ),
)


def run_demo(settings: Settings, *, stay: bool) -> int:
    """Start a server in this process, load the sample on first start, ask and answer, and keep serving.

    Args:
        settings: The configuration; the embedded defaults do.
        stay: Whether to serve on until Ctrl-C.

    Returns:
        The exit status: 0 also when it was stopped by Ctrl-C or SIGTERM.

    Raises:
        ConfigError: The port is taken; says which one is free. Or the configuration is one for serving: the
            demo asks its server as anybody, unencrypted.
    """
    if settings.auth.is_enabled or settings.server.tls.is_enabled:
        raise ConfigError(
            "the demo goes without encryption and authentication, but the configuration has them set up",
            "lakehouse serve goes with them; lakehouse demo --config FILE takes another configuration",
        )
    console = Console(highlight=False, soft_wrap=True)
    configure_logging(settings.log.model_copy(update={"level": "warning"}))
    server = _start(settings)
    try:
        with _stopped_by_signals():
            console.print(f"\n[bold]Lakehouse Flight SQL server[/bold] on [cyan]{server.uri}[/cyan]")
            _load(console, server.uri)
            _answer(console, server.uri)
            _explain(console, server.uri)
            if stay:
                console.print("\nServing until Ctrl-C …")
                while True:
                    time.sleep(1.0)
    except KeyboardInterrupt:
        console.print("\nStopping …")
    finally:
        server.stop(settings.server.drain_seconds if stay else 1.0)
    return 0


def _start(settings: Settings) -> app.RunningServer:
    try:
        return app.start(settings)
    except ConfigError as error:
        if "--port" not in error.hint:
            raise
        free = _free_port(settings.server.host, settings.server.port)
        hint = f"choose another: make demo PORT={free}, or lakehouse demo --port {free}"
        raise ConfigError(error.message, hint) from None


def _free_port(host: str, taken: int) -> int:
    """A port near the one that is taken, or 0, which takes any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(taken + 1, min(taken + 100, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    return 0


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGINT end whatever is being done, and only once: stopping itself is not interrupted."""

    def stop(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    yield


def _load(console: Console, uri: str) -> None:
    with connect(uri) as client:
        present = client.flights("nyc.*")
        if not present:
            console.print("Loading the sample data, on first start only …")
        started = time.perf_counter()
        loaded = call_with_progress(client, "samples.load", {"name": "nyc"})["tables"]
    seconds = time.perf_counter() - started
    rows = sum(table["rows"] for table in loaded)
    where = f"{rows:,} rows in {len(loaded)} tables of schema nyc"
    if len(present) == len(loaded):
        console.print(f"The sample data is there from an earlier start: {where}.")
    else:
        console.print(f"Loaded the sample data: {where}, {seconds:.1f} s.")


def _answer(console: Console, uri: str) -> None:
    console.print("\nSome questions, over ADBC (the driver of Python, R, Go and many BI tools):")
    with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for example in EXAMPLES:
            started = time.perf_counter()
            cursor.execute(example.sql)
            table = cursor.fetch_arrow_table()
            seconds = time.perf_counter() - started
            console.print(f"\n[bold]{example.question}[/bold]\n")
            for line in example.sql.splitlines():
                syntax = Syntax("", "sql", theme="ansi_dark", background_color="default")
                console.print(syntax.highlight(line), end="")
            console.print()
            print_table(fitting(Console()), table)
            plural = "" if table.num_rows == 1 else "s"
            console.print(f"[dim]{table.num_rows} row{plural} in {seconds * 1000:.1f} ms[/dim]")


def _explain(console: Console, uri: str) -> None:
    address = uri.removeprefix("grpc://")
    console.print("\n[bold]Connect[/bold]")
    lines = (
        ("DBeaver, JDBC", f"jdbc:arrow-flight-sql://{address}?useEncryption=false"),
        ("Python, ADBC", f'adbc_driver_flightsql.dbapi.connect("{uri}")'),
        ("Python, client", f'lakehouse_client.connect("{uri}")'),
        ("polars", f'pl.read_database_uri("SELECT …", "flightsql://{address}?transport=tcp", engine="adbc")'),
        ("command line", f'.venv/bin/lakehouse sql --uri {uri} "SELECT * FROM nyc.airlines"'),
    )
    for name, text in lines:
        console.print(f"  {name:<15} ", end="")
        console.print(text, markup=False, style="cyan")
    console.print("  More in clients/examples: pandas, SQLAlchemy, Java, Go, R.")
