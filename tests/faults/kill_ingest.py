"""A server, and the PostgreSQL that it reads, killed at random moments of whole ingests over the wire.

The same request is made again until it succeeds. Then the table holds what its source held at one moment,
every row once, whatever a writer did to the source meanwhile; the account is exact, and no file stays that
nothing refers to. ``make ingest-kills`` does it 50 times. The seed fixes what is brought, who dies, and at
which share of the usual time; the machine decides what that comes to.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from conftest import Server, start_server
from faults.killing import KillTrial, References, grow_old, main, stored
from lakehouse_client import Client, LakehouseClientError, connect
from postgres import PASSWORD, Postgres, start_postgres

from lakehouse.catalog import IcebergCatalog
from lakehouse.clock import SystemClock
from lakehouse.storage import open_local_bucket

CONFIG = """
[auth]
anonymous_role = "admin"
[maintenance]
enabled = false
grace_seconds = 0
[ingest]
target_file_bytes = 65536
[[sources]]
name = "shop"
dsn = "postgresql://lake@127.0.0.1:{port}/{database}"
password = {{ env = "SHOP_PASSWORD" }}
"""
SOURCE = """
CREATE TABLE t (n int PRIMARY KEY, v bigint NOT NULL, s text);
COMMENT ON TABLE t IS 'Numbers';
COMMENT ON COLUMN t.v IS 'Which transaction wrote it';
CREATE TABLE u (n int PRIMARY KEY REFERENCES t (n), v bigint);
"""
_GONE = ("UNREACHABLE", "FAILED", "CANCELLED")
_FIRST = 1500
_USUAL_S = 0.3
_MOST_TRIES = 30
KINDS = ("replaced", "updated", "appended", "made", "everything", "file", "sent")
Rows = dict[int, tuple[int, str]]
Attempt = Callable[[Client], Any]


class SourceWriter:
    """Changes the table ``t`` all the time. What its n-th transaction does follows from the seed and n.

    So what the table held at a moment is known from one row: number 0 says which transaction was the last.

    Args:
        dsn: The database.
        seed: Fixes the changes.
    """

    def __init__(self, dsn: str, seed: int) -> None:
        self._dsn = dsn
        self._seed = seed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._state: Rows = {n: (0, f"first {n}") for n in range(_FIRST)}
        self._at = 0
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SOURCE.encode())
            connection.execute(
                b"INSERT INTO t SELECT n, 0, 'first ' || n FROM generate_series(0, %d) n" % (_FIRST - 1)
            )
            connection.execute(b"INSERT INTO u SELECT n, n * 10 FROM generate_series(0, 99) n")
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._ended.set()
        self._thread.join()

    def at(self, transaction: int) -> Rows:
        """What the table held after a transaction, which is not before one asked for earlier."""
        while self._at < transaction:
            self._at += 1
            for n in self._removed(self._at):
                self._state.pop(n, None)
            self._state.update(self._written(self._at))
        assert self._at == transaction
        return self._state

    def _removed(self, number: int) -> list[int]:
        return [random.Random(f"{self._seed} removed {number}").randrange(100, _FIRST)]

    def _written(self, number: int) -> Rows:
        rng = random.Random(f"{self._seed} written {number}")
        chosen = [0, *(rng.randrange(1, 100) for _ in range(3)), _FIRST + number]
        return {n: (number, f"{number} " + "x" * rng.randrange(200)) for n in chosen}

    def _work(self) -> None:
        while not self._ended.is_set():
            with suppress(psycopg.Error), psycopg.connect(self._dsn, connect_timeout=5) as connection:
                found = connection.execute("SELECT v FROM t WHERE n = 0").fetchone()
                assert found is not None
                connection.rollback()
                for number in itertools.count(found[0] + 1):
                    if self._ended.wait(0.005):
                        return
                    self._change(connection, number)
            self._ended.wait(0.02)

    def _change(self, connection: psycopg.Connection[Any], number: int) -> None:
        for n in self._removed(number):
            connection.execute("DELETE FROM t WHERE n = %s", [n])
        for n, (v, s) in self._written(number).items():
            connection.execute(
                "INSERT INTO t VALUES (%s, %s, %s) "
                "ON CONFLICT (n) DO UPDATE SET v = excluded.v, s = excluded.s",
                [n, v, s],
            )
        connection.commit()


class Trial(KillTrial):
    """A lakehouse, a database with somebody at work in it, and processes that are killed time and again."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self._directory = directory
        self._postgres: Postgres = start_postgres()
        self._database = self._postgres.database().rpartition("/")[2]
        self._writer = SourceWriter(self._postgres.dsn(self._database), seed)
        self._server = self._started()
        self._usual: dict[str, float] = {}
        self._round = 0
        self._kept: Rows = {}
        self._all: Counter[tuple[Any, ...]] = Counter()
        self._lines: Counter[int] = Counter()
        self._rejected = 0
        self._numbers: Counter[int] = Counter()
        self._references = References()
        self.runs: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def close(self) -> None:
        """End everything."""
        self._writer.close()
        self._server.kill()
        self._postgres.stop()

    def kill_once(self) -> None:
        """Bring something, with a death in the middle of it, until it succeeds, and see what is there."""
        self._round += 1
        kind = KINDS[self._round % len(KINDS)]
        attempt, check = getattr(self, f"_{kind}")()
        killed = "server" if kind in ("file", "sent") or self._rng.random() < 0.6 else "postgres"
        result = self._tried(kind, killed, attempt)
        with connect(self._server.uri) as client:
            check(client, result)
            self._check_runs(client)
            if self._round % 10 == 0:
                self._check_files(client)

    def check_at_end(self) -> None:
        """Look for files that nothing refers to."""
        with connect(self._server.uri) as client:
            self._check_files(client)

    def told(self) -> str:
        """What was met so far, and how runs ended."""
        return f"{super().told()}, runs: {dict(self.runs)}"

    # -- what is brought ------------------------------------------------------------------------------

    def _replaced(self) -> tuple[Attempt, Any]:
        def check(client: Client, run: Any) -> None:
            found = self._rows(client, "replaced")
            assert found == sorted(self._source(found)), "replaced"

        return self._postgres_run("replaced", mode="replace"), check

    def _updated(self) -> tuple[Attempt, Any]:
        def check(client: Client, run: Any) -> None:
            found = self._rows(client, "updated")
            self._kept.update({n: (v, s) for n, v, s in self._source(found)})
            assert found == sorted((n, v, s) for n, (v, s) in self._kept.items()), "updated"

        return self._postgres_run("updated", mode="upsert"), check

    def _appended(self) -> tuple[Attempt, Any]:
        def check(client: Client, run: Any) -> None:
            found = self._rows(client, "appended")
            self._all.update(self._source(found))
            assert Counter(found) == self._all, "appended"

        return self._postgres_run("appended", mode="append"), check

    def _made(self) -> tuple[Attempt, Any]:
        table = f"made_{self._round}"

        def check(client: Client, run: Any) -> None:
            found = self._rows(client, table)
            assert found == sorted(self._source(found)), table
            told = client.call("catalog.describe", {"table": table})
            assert told["primary_key"] == ["n"], table
            assert told["description"] == "Numbers", table
            assert told["columns"][1]["description"] == "Which transaction wrote it", table

        return self._postgres_run(table, mode="create"), check

    def _everything(self) -> tuple[Attempt, Any]:
        request = {"source": "shop", "schemas": ["public"], "db_schema": "everything"}

        def attempt(client: Client) -> Any:
            found = client.call("ingest.postgres_all", request)
            if found["failed"]:
                for run in found["runs"]:
                    assert run["state"] in ("succeeded", "repeated", "failed"), run
                    assert run["state"] != "failed" or run["error_code"] == "STORAGE_UNAVAILABLE", run
                raise LakehouseClientError("STORAGE_UNAVAILABLE", "some failed")
            return {"state": "succeeded", "rows_in": 0, "rows_stored": 0, "rows_rejected": 0}

        def check(client: Client, run: Any) -> None:
            found = self._rows(client, "t", "everything")
            assert found == sorted(self._source(found)), "everything"
            assert client.sql("SELECT count(*) AS n, sum(v) AS v FROM everything.u").table().to_pylist() == [
                {"n": 100, "v": 49_500}
            ]
            [key] = client.call("catalog.describe", {"table": "u", "db_schema": "everything"})["foreign_keys"]
            assert key["ref_table"] == "t", key

        return attempt, check

    def _file(self) -> tuple[Attempt, Any]:
        first = self._round * 100_000
        lines = [f"{first + n},{'x' * self._rng.randrange(100)}" for n in range(20_000)]
        bad = {self._rng.randrange(20_000) for _ in range(20)}
        numbers = [first + n for n in range(20_000) if n not in bad]
        text = "id,s\n" + "".join(
            f"no{line}\n" if number in bad else f"{line}\n" for number, line in enumerate(lines)
        )
        key = f"in/{self._round}.csv.gz"
        path = self._directory / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()))
        request = {"key": key, "table": "lines", "types": {"id": "BIGINT"}, "on_error": "reject"}
        self._lines.update(numbers)
        self._rejected += len(bad)

        def check(client: Client, run: Any) -> None:
            found = client.sql("SELECT id FROM lines").table()["id"].to_pylist()
            assert Counter(found) == self._lines, "lines"
            [rejected] = (
                client.sql("SELECT count(*) AS n, count(DISTINCT content) AS d FROM lines_rejects")
                .table()
                .to_pylist()
            )
            assert rejected == {"n": self._rejected, "d": self._rejected}

        return lambda client: client.call("ingest.file", request), check

    def _sent(self) -> tuple[Attempt, Any]:
        first = self._round * 100_000
        schema = pa.schema([("id", pa.int64()), ("s", pa.string())])

        def batches() -> Iterator[pa.RecordBatch]:
            for start in range(first, first + 20_000, 2000):
                numbers = range(start, start + 2000)
                yield pa.record_batch([pa.array(numbers), [f"row {n}" for n in numbers]], schema=schema)

        def attempt(client: Client) -> Any:
            reader = pa.RecordBatchReader.from_batches(schema, batches())
            return asdict(client.ingest_rows(reader, "sent", key=f"round {self._round}"))

        def check(client: Client, run: Any) -> None:
            self._numbers.update(range(first, first + 20_000))
            found = client.sql("SELECT id FROM sent").table()["id"].to_pylist()
            assert Counter(found) == self._numbers, "sent"

        return attempt, check

    def _postgres_run(self, table: str, **options: str) -> Attempt:
        request = {
            "source": "shop",
            "relation": "t",
            "table": table,
            "key": f"round {self._round}",
            **options,
        }
        return lambda client: client.call("ingest.postgres", request)

    # -- how ------------------------------------------------------------------------------------------

    def _started(self) -> Server:
        config = CONFIG.format(port=self._postgres.port, database=self._database)
        return start_server(self._directory, config, SHOP_PASSWORD=PASSWORD)

    def _tried(self, kind: str, killed: str, attempt: Attempt) -> Any:
        """Make a request until it succeeds, with a death in the first attempt and in some later ones."""
        for number in range(_MOST_TRIES):
            murder = None
            if number == 0 or (number < 3 and self._rng.random() < 0.3):
                share = self._rng.uniform(self._rng.choice((0, 0.7)), 1.1)
                after = share * self._usual.get(kind, _USUAL_S)
                murder = threading.Timer(after, self._kill, [killed])
                murder.start()
            begun, outcome, result = time.monotonic(), "refused", None
            try:
                with connect(self._server.uri) as client:
                    result = attempt(client)
                outcome = result["state"] if murder is None else f"{killed} died: {result['state']}"
            except LakehouseClientError as error:
                if error.code not in (
                    (*_GONE, "STORAGE_UNAVAILABLE") if murder else ("STORAGE_UNAVAILABLE",)
                ):
                    raise
                outcome = f"{killed} died: {error.code}"
            if murder is not None:
                murder.join()
            else:
                took = time.monotonic() - begun
                self._usual[kind] = (self._usual.get(kind, took) + took) / 2
            if self._server.process.poll() is not None:
                self._server = self._started()
            self.outcomes[outcome] += 1
            if result is not None:
                assert result["rows_in"] == result["rows_stored"] + result["rows_rejected"], result
                return result
        raise AssertionError(f"{kind} does not succeed after {_MOST_TRIES} attempts: {self.outcomes}")

    def _kill(self, who: str) -> None:
        if who == "server":
            self._server.kill()
        else:
            self._postgres.restart()

    # -- what has to be there -------------------------------------------------------------------------

    def _rows(self, client: Client, table: str, schema: str = "main") -> list[tuple[Any, ...]]:
        found = client.sql(f"SELECT n, v, s FROM {schema}.{table} ORDER BY n, v").table().to_pylist()
        return [tuple(row.values()) for row in found]

    def _source(self, found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """What the source held at the moment of which the newest rows are."""
        last = max(v for n, v, _ in found if n == 0)
        return [(n, v, s) for n, (v, s) in self._writer.at(last).items()]

    def _check_runs(self, client: Client) -> None:
        """Runs whose server was killed are lost, once a minute is over, and the others have ended."""
        runs = client.call("ingest.list", {"limit": 1000})["runs"]
        for run in runs:
            if run["state"] in ("queued", "running"):
                record = self._directory / f"bucket/_ingest/runs/{run['id']}.json"
                content = json.loads(record.read_bytes())
                seen = datetime.fromisoformat(content["seen_at"]) - timedelta(minutes=2)
                record.write_text(json.dumps({**content, "seen_at": seen.isoformat()}))
        states = Counter(run["state"] for run in client.call("ingest.list", {"limit": 1000})["runs"])
        assert states.keys() <= {"succeeded", "repeated", "failed", "lost", "cancelled"}, states
        self.runs = states

    def _check_files(self, client: Client) -> None:
        """Have the orphans removed; what stays below the warehouse is what tables refer to."""
        root = self._directory / "bucket"
        grow_old(root)
        bucket = open_local_bucket("primary", root)
        catalog = IcebergCatalog("lake", bucket, "warehouse", SystemClock(), refresh_s=0)
        needed = set()
        for schema in catalog.schemas():
            for table in catalog.tables(schema):
                where = {"table": table, "db_schema": schema, "older_than_hours": 1}
                client.call("table.remove_orphans", where)
                needed |= self._references.of(catalog, catalog.load(schema, table))
        there = {path for path in stored(root / "warehouse") if path.endswith((".parquet", ".avro", ".tmp"))}
        assert there == needed, f"not needed {there - needed}, lacking {needed - there}"


if __name__ == "__main__":
    main(Trial, 50)
