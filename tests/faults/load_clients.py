"""Clients of a load test, many in one process: ``python load_clients.py KIND COUNT PORT SECONDS SEED``.

Prints one JSON object a line: what honest clients counted, and every failure of theirs. Run as a program, so
that clients can be killed and do not share Python's lock with the test.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
from faults.corpus import FAMILIES, case
from faults.raw_flight import RawFlight, action
from wire import command, query, unwrapped, wrapped

ROWS = 5000
_DEADLINE_S = 60
_VANISH_AFTER_S = 1.5
_BIG = "select range as a, range * 2 as b, repeat('x', 20) as c from range(5000000)"


class _Cookies(flight.ClientMiddlewareFactory):
    """Sends the session's cookie back, as ADBC and JDBC drivers do."""

    def __init__(self) -> None:
        self._cookie = ""

    def start_call(self, info: flight.CallInfo) -> flight.ClientMiddleware:
        owner = self

        class Middleware(flight.ClientMiddleware):
            def sending_headers(self) -> dict[str, str]:
                return {"cookie": owner._cookie} if owner._cookie else {}

            def received_headers(self, headers: dict[str, list[str]]) -> None:
                for text in headers.get("set-cookie", []):
                    owner._cookie = text.split(";")[0]

        return Middleware()


class Honest:
    """One client that asks what it knows the answer to.

    Its session is known by a cookie: a client without one takes over the session of a vanished client that
    had the same address.
    """

    def __init__(self, port: int, rng: random.Random) -> None:
        self._client = flight.connect(
            f"grpc://127.0.0.1:{port}",
            generic_options=[("grpc.enable_http_proxy", 0)],
            middleware=[_Cookies()],
        )
        self._options = flight.FlightCallOptions(timeout=_DEADLINE_S)
        self._rng = rng

    def close(self) -> None:
        """Close session and connection, as well-behaved clients do."""
        with contextlib.suppress(flight.FlightError, pa.ArrowException):
            list(self._client.do_action(flight.Action("CloseSession", b""), self._options))
        self._client.close()

    def step(self) -> str:
        """Ask something and check the answer; gives what was asked."""
        kind: Callable[[], None] = self._rng.choice(
            (self.aggregate, self.aggregate, self.stream, self.bind, self.temporary, self.metadata, self.load)
        )
        kind()
        return kind.__name__

    def ask(self, sql: str) -> dict[str, list[Any]]:
        """The columns of a query."""
        found: dict[str, list[Any]] = query(self._client, sql, self._options).to_pydict()
        return found

    def aggregate(self) -> None:
        """An exact sum over part of a table."""
        low, high = sorted(self._rng.randrange(ROWS) for _ in range(2))
        found = self.ask(f"select sum(k) as s, count(*) as n from truth where k between {low} and {high}")
        assert found == {"s": [(low + high) * (high - low + 1) // 2], "n": [high - low + 1]}, found

    def stream(self) -> None:
        """A result of several messages, every row of it."""
        rows = self._rng.randrange(1, 200_000)
        found = query(self._client, f"select range as a, 'é' || range as b from range({rows})", self._options)
        assert found.num_rows == rows
        assert found["a"].to_pylist()[-1] == rows - 1
        assert found["b"][-1].as_py() == f"é{rows - 1}"

    def bind(self) -> None:
        """A prepared statement with a parameter."""
        key = self._rng.randrange(ROWS)
        request = wrapped("ActionCreatePreparedStatementRequest", query="select s from truth where k = ?")
        (result,) = self._client.do_action(flight.Action("CreatePreparedStatement", request), self._options)
        handle = unwrapped(
            result.body.to_pybytes(), "ActionCreatePreparedStatementResult"
        ).prepared_statement_handle
        descriptor = command("CommandPreparedStatementQuery", prepared_statement_handle=handle)
        table = pa.table({"1": pa.array([key])})
        writer, _ = self._client.do_put(descriptor, table.schema, self._options)
        with writer:
            writer.write_table(table)
        info = self._client.get_flight_info(descriptor, self._options)
        found = self._client.do_get(info.endpoints[0].ticket, self._options).read_all().to_pydict()
        assert found == {"s": [f"text {key}"]}, found
        closing = wrapped("ActionClosePreparedStatementRequest", prepared_statement_handle=handle)
        list(self._client.do_action(flight.Action("ClosePreparedStatement", closing), self._options))

    def temporary(self) -> None:
        """A temporary table, loaded and read; nobody else's of the same name is seen."""
        rows = self._rng.randrange(1, 2000)
        options = {"if_not_exist": 1, "if_exists": 3}
        descriptor = command(
            "CommandStatementIngest", table="mine", temporary=True, table_definition_options=options
        )
        data = pa.table({"v": pa.array(range(rows))})
        writer, reader = self._client.do_put(descriptor, data.schema, self._options)
        with writer:
            writer.write_table(data)
            writer.done_writing()
            assert reader.read() is not None
        found = self.ask("select count(*) as n, max(v) as m from mine")
        assert found == {"n": [rows], "m": [rows - 1]}, found
        self.ask("drop table mine")

    def metadata(self) -> None:
        """The tables, among them the one that all of this reads."""
        descriptor = command("CommandGetTables", table_name_filter_pattern="truth", include_schema=True)
        info = self._client.get_flight_info(descriptor, self._options)
        found = self._client.do_get(info.endpoints[0].ticket, self._options).read_all()
        assert found["table_name"].to_pylist() == ["truth"]

    def load(self) -> None:
        """The table as a flight, read through the tickets of its path."""
        info = self._client.get_flight_info(flight.FlightDescriptor.for_path("truth"), self._options)
        parts = [self._client.do_get(e.ticket, self._options).read_all() for e in info.endpoints]
        assert sum(sum(p["k"].to_pylist()) for p in parts) == ROWS * (ROWS - 1) // 2


def honest(port: int, stop_at: float, rng: random.Random, counts: Counter[str], failures: list[str]) -> None:
    """Ask until the time is up, on a few connections one after the other."""
    while time.time() < stop_at:
        client = Honest(port, rng)
        try:
            for _ in range(rng.randrange(5, 40)):
                if time.time() >= stop_at:
                    break
                counts[client.step()] += 1
                time.sleep(rng.uniform(0.05, 0.5))
        except Exception as error:  # noqa: BLE001 - reported to the test
            failures.append(f"{type(error).__name__}: {str(error)[:400]}")
        finally:
            client.close()


def slow(port: int, stop_at: float, rng: random.Random, counts: Counter[str], failures: list[str]) -> None:
    """Read a batch a second of a result that has hundreds."""
    while time.time() < stop_at:
        with (
            contextlib.suppress(flight.FlightError, pa.ArrowException, OSError),
            flight.connect(f"grpc://127.0.0.1:{port}") as client,
        ):
            info = client.get_flight_info(command("CommandStatementQuery", query=_BIG))
            reader = client.do_get(info.endpoints[0].ticket)
            for _ in range(rng.randrange(5, 15)):
                reader.read_chunk()
                counts["batch"] += 1
                time.sleep(1)
                if time.time() > stop_at:
                    break
            reader.cancel()


def vanishing(
    port: int, stop_at: float, rng: random.Random, counts: Counter[str], failures: list[str]
) -> None:
    """Begin to read or to write; the process is killed in the middle of it."""
    client = flight.connect(f"grpc://127.0.0.1:{port}")
    with contextlib.suppress(flight.FlightError, pa.ArrowException, OSError):
        if rng.random() < 0.3:
            descriptor = command(
                "CommandStatementIngest",
                table=f"lost_{rng.randrange(10)}",
                table_definition_options={"if_not_exist": 1, "if_exists": 2},
            )
            batch = pa.record_batch({"v": pa.array(range(10_000))})
            writer, _ = client.do_put(descriptor, batch.schema)
            while True:
                writer.write_batch(batch)
                time.sleep(0.05)
        list(client.do_action(flight.Action("BeginTransaction", wrapped("ActionBeginTransactionRequest"))))
        info = client.get_flight_info(command("CommandStatementQuery", query=_BIG))
        for chunk in client.do_get(info.endpoints[0].ticket):
            counts["batch"] += chunk.data.num_rows > 0
            time.sleep(0.1)


def hostile(port: int, stop_at: float, rng: random.Random, counts: Counter[str], failures: list[str]) -> None:
    """Send requests at random."""
    seed = rng.randrange(1 << 30)
    for number in itertools.count():
        with RawFlight(port) as client:
            for _ in range(20):
                if time.time() > stop_at:
                    return
                made = case(seed, rng.choice(list(FAMILIES)), number)
                client.call(made.method, made.requests, timeout_s=20, most=20)
                counts["case"] += 1
                time.sleep(0.02)
            if rng.random() < 0.5:
                client.call("DoAction", [action(b"CloseSession", b"")])


KINDS = {"honest": honest, "slow": slow, "vanishing": vanishing, "hostile": hostile}


def main() -> None:
    """Run the clients of one kind and print what came of it."""
    kind, count, port, seconds, seed = sys.argv[1], *map(float, sys.argv[2:])
    counts: Counter[str] = Counter()
    failures: list[str] = []
    stop_at = time.time() + seconds
    threads = [
        threading.Thread(
            target=KINDS[kind],
            args=(int(port), stop_at, random.Random(f"{seed}:{kind}:{i}"), counts, failures),
            daemon=True,
        )
        for i in range(int(count))
    ]
    for thread in threads:
        thread.start()
    if kind == "vanishing":
        time.sleep(min(seconds, _VANISH_AFTER_S))
        os.kill(os.getpid(), signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=seconds + 2 * _DEADLINE_S)
    stuck = sum(thread.is_alive() for thread in threads)
    print(json.dumps({"kind": kind, "counts": counts, "failures": failures, "stuck": stuck}), flush=True)


if __name__ == "__main__":
    main()
