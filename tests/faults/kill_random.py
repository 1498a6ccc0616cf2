"""A server process that is killed at random moments of random statements, beside DuckDB, which is not.

What a client was answered is there after every restart, what it was not answered is there as a whole or not
at all, and no file stays that nothing refers to. ``make kills`` does it 200 times. The seed fixes the
statements and which share of its usual time each is given; the machine decides what that comes to.
"""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adbc_driver_manager
import duckdb
import pyarrow as pa
from conftest import start_server
from faults.killing import KillTrial, References, grow_old, main, stored
from lakehouse_client import Client, LakehouseClientError, connect
from random_statements import Statements

from lakehouse.catalog import IcebergCatalog
from lakehouse.clock import SystemClock
from lakehouse.storage import open_local_bucket

CONFIG = """
[maintenance]
enabled = false
grace_seconds = 0
[ingest]
target_file_bytes = 65536
"""
TABLES = """
create table t (k bigint, g integer, s varchar, x double);
create table p (k bigint, g integer, s varchar, x double){partitioned};
create table w (k bigint, v integer);
create table a (n bigint, amount bigint);
create table b (n bigint, amount bigint);
create table journal (id bigint);
insert into w select range, range from range(100);
insert into a select range, 1000 from range(4);
insert into b select range, 1000 from range(4)
"""
TOTAL = 8000
SIDE_WRITERS = 2
_GONE = ("UNREACHABLE", "FAILED", "CANCELLED")
_USUAL_S = 0.05
_MOST_MADE = 4
State = dict[str, pa.Table]
Ask = Callable[[str], pa.Table]


@dataclass(frozen=True)
class Statement:
    """SQL with rows of parameters, data for a table, or an action that leaves the rows as they are."""

    sql: str = ""
    rows: list[list[Any]] | None = None
    data: pa.Table | None = None
    table: str = ""
    mode: str = ""
    action: str = ""

    def run(self, client: Client) -> None:
        """Have the server do it."""
        if self.action:
            client.call(self.action, {"table": self.table})
        elif self.data is not None:
            client.ingest(self.table, self.data, self.mode)
        elif self.rows is not None:
            columns = zip(*self.rows, strict=True)
            client.execute(self.sql, pa.table({str(i): pa.array(c) for i, c in enumerate(columns)}))
        elif "returning" in self.sql:
            client.sql(self.sql).table()
        else:
            client.execute(self.sql)

    def rehearse(self, plain: duckdb.DuckDBPyConnection) -> None:
        """Do it in DuckDB."""
        if self.data is not None:
            source = f"(select * from data_of_{self.table})"
            plain.register(f"data_of_{self.table}", self.data)
            plain.execute(
                f"insert into {self.table} {source}"
                if self.mode == "append"
                else f"create or replace table {self.table} as {source}"
            )
            plain.unregister(f"data_of_{self.table}")
        elif self.rows is not None:
            plain.executemany(self.sql, self.rows)
        elif self.sql:
            plain.execute(self.sql).fetchall()


@dataclass(frozen=True)
class Work:
    """What takes effect as a whole: one statement, or those of a transaction."""

    kind: str
    statements: list[Statement]

    def run(self, client: Client) -> None:
        """Have the server do it."""
        if len(self.statements) == 1:
            self.statements[0].run(client)
            return
        with client.transaction():
            for statement in self.statements:
                statement.run(client)

    def __str__(self) -> str:
        return f"{self.kind}: " + "; ".join(
            s.sql or f"{s.action or s.mode} {s.table}" for s in self.statements
        )


class Mix:
    """Draws work at random, for the tables as they are in DuckDB."""

    def __init__(self, rng: random.Random, plain: duckdb.DuckDBPyConnection) -> None:
        self._rng = rng
        self._plain = plain
        self._statements = Statements(rng)
        self._numbers = itertools.count()

    def draw(self) -> Work:
        """The next piece of work."""
        if len(self._made()) > _MOST_MADE:
            return Work("drop", [self.drop()])
        kind = self._rng.choice(
            [self.change] * 4
            + [self.transfer] * 3
            + [self.ingest, self.create, self.alter] * 2
            + [self.drop, self.rename, self.replace, self.view, self.several, self.maintain]
        )
        made = kind()
        return Work(kind.__name__, made if isinstance(made, list) else [made])

    def change(self) -> Statement:
        """INSERT, UPDATE, DELETE or MERGE of a table, with partitions or without."""
        sql, rows = self._statements.one()
        return Statement(re.sub(r"\bt\b", self._rng.choice("ttp"), sql), rows)

    def transfer(self) -> list[Statement]:
        """From one table to another; a third tells of it."""
        source, target = self._rng.sample(["a", "b"], 2)
        amount, n = self._rng.randrange(1, 50), self._rng.randrange(4)
        return [
            Statement(f"update {source} set amount = amount - {amount} where n = {n}"),
            Statement(f"update {target} set amount = amount + {amount} where n = {n}"),
            Statement(f"insert into journal values ({next(self._numbers)})"),
        ]

    def several(self) -> list[Statement]:
        """Tables that come, change and go in one transaction."""
        name = f"made_{next(self._numbers)}"
        dropped = [Statement(f"drop table {old}") for old in self._made()[:1]]
        return [
            Statement(f"create table {name} as select k, g from t where k % 2 = 0"),
            *dropped,
            Statement(f"insert into {name} values (-1, -1)"),
            Statement(f"insert into journal values ({next(self._numbers)})"),
        ]

    def ingest(self) -> Statement:
        """Rows in bulk, to a table that is there or to a new one."""
        first = self._rng.randrange(1_000_000, 2_000_000)
        keys = pa.array(range(first, first + self._rng.choice([1, 50, 2000])))
        data = pa.table(
            {
                "k": keys,
                "g": pa.array([k % 5 for k in keys.to_pylist()], pa.int32()),
                "s": pa.array([f"loaded {k}" for k in keys.to_pylist()]),
                "x": pa.array([k / 7 for k in keys.to_pylist()]),
            }
        )
        table, mode = self._rng.choice(
            [("t", "append"), ("p", "append"), (f"made_{next(self._numbers)}", "create"), ("t", "replace")]
        )
        return Statement(data=data, table=table, mode=mode)

    def create(self) -> Statement:
        """CREATE TABLE AS."""
        return Statement(f"create table made_{next(self._numbers)} as select * from t where k % 3 <> 0")

    def replace(self) -> Statement:
        """CREATE OR REPLACE TABLE AS, of a table that is read as well."""
        return Statement("create or replace table t as select * from t where k % 5 <> 0")

    def drop(self) -> Statement:
        """DROP TABLE, as far as there is one."""
        made = self._made()
        return Statement(f"drop table {made[0]}") if made else self.create()

    def rename(self) -> Statement:
        """ALTER TABLE RENAME, as far as there is one."""
        made = self._made()
        return (
            Statement(f"alter table {made[0]} rename to made_{next(self._numbers)}") if made else self.view()
        )

    def view(self) -> Statement:
        """CREATE OR REPLACE VIEW."""
        return Statement(f"create or replace view v as select n from a where n <> {self._rng.randrange(4)}")

    def alter(self) -> Statement:
        """ALTER TABLE, or rows for what it has made of the table."""
        described = self._plain.execute("select * from w limit 0").description or []
        columns = [column[0] for column in described[1:]]
        new = f"c{next(self._numbers)}"
        choices = [
            f"alter table w add column {new} integer",
            f"insert into w (k) select range from range({self._rng.randrange(1, 500)})",
        ]
        if columns:
            column = self._rng.choice(columns)
            choices += [
                f"alter table w rename column {column} to {new}",
                f"alter table w alter column {column} type bigint",
                f"update w set {column} = k % 7 where k % 3 = 1",
            ]
        if len(columns) > 3:
            choices.append(f"alter table w drop column {columns[0]}")
        return Statement(self._rng.choice(choices))

    def maintain(self) -> Statement:
        """Compaction or expiry, which change no row."""
        table = self._rng.choice(["t", "p", "w", "journal"])
        return Statement(action=self._rng.choice(["table.compact", "table.expire_snapshots"]), table=table)

    def _made(self) -> list[str]:
        found = self._plain.execute(
            "select table_name from information_schema.tables where starts_with(table_name, 'made_')"
        ).fetchall()
        return sorted(name for (name,) in found)


def state_of(ask: Ask) -> State:
    """Every table and view with its rows in order, but the table of the side writers."""
    found = ask("select table_name from information_schema.tables where table_schema = 'main' order by all")
    names = [name for name in found["table_name"].to_pylist() if name != "ledger"]
    return {name: ask(f"select * from {name} order by all") for name in names}


def asked(client: Client) -> Ask:
    """Has queries answered by the server."""
    return lambda sql: client.sql(sql).table()


def rehearsed(plain: duckdb.DuckDBPyConnection) -> Ask:
    """Has queries answered by DuckDB."""
    return lambda sql: plain.sql(sql).to_arrow_table()


def same(one: State, other: State) -> bool:
    """Whether all tables have the same columns and rows."""
    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)


def equal(one: pa.Table, other: pa.Table) -> bool:
    """Whether tables have the same columns and rows; a type may be spelled in two ways."""
    if one.column_names != other.column_names:
        return False
    return one.num_rows == other.num_rows and one.equals(other.cast(one.schema))


@dataclass
class SideWriters:
    """Clients that insert one number after the other into a table of their own, until the server has gone."""

    numbers: Iterator[int] = field(default_factory=itertools.count)
    tried: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, uri: str) -> None:
        """Begin to write to a server."""
        self._threads = [threading.Thread(target=self._write, args=(uri,)) for _ in range(SIDE_WRITERS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all have noticed that the server has gone."""
        for thread in self._threads:
            thread.join()

    def _write(self, uri: str) -> None:
        client = connect(uri)
        try:
            while True:
                number = next(self.numbers)
                self.tried.add(number)
                client.execute(f"insert into ledger values ({number})")
                self.told.add(number)
        except LakehouseClientError as error:
            if error.code not in _GONE:
                self.refused.append(str(error))
        finally:
            with suppress(LakehouseClientError, adbc_driver_manager.Error):
                client.close()


class Trial(KillTrial):
    """A lakehouse in a directory, DuckDB with the same tables, and a server that is killed time and again."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self._directory = directory
        self._plain = duckdb.connect()
        self._mix = Mix(self._rng, self._plain)
        self._usual: dict[str, float] = {}
        self._side = SideWriters()
        self._references = References()
        self.outcomes: Counter[str] = Counter()
        self._server = start_server(directory, CONFIG)
        with connect(self._server.uri) as client:
            for sql in (
                *TABLES.format(partitioned=" partitioned by (g)").split(";"),
                "create table ledger (n bigint)",
            ):
                client.execute(sql)
        self._plain.execute(TABLES.format(partitioned=""))

    def close(self) -> None:
        """End the server."""
        self._server.kill()
        self._plain.close()

    def kill_once(self) -> None:
        """Work for a while, die in the middle of it, and check what is there then."""
        self._side.start(self._server.uri)
        client = connect(self._server.uri)
        for _ in range(self._rng.randrange(4)):
            work = self._mix.draw()
            self._timed(work, client)
            self._rehearse(work)
            self._plain.commit()
        work = self._mix.draw()
        before = state_of(rehearsed(self._plain))
        self._rehearse(work)
        after = state_of(rehearsed(self._plain))
        answered = self._killed_during(work, client)
        self._side.join()
        self._server = start_server(self._directory, CONFIG)
        with connect(self._server.uri) as client:
            found = state_of(asked(client))
            took_place = answered or same(found, after)
            self._check(
                found, after if took_place else before, f"{work} was {'' if answered else 'not '}answered"
            )
            self._end(work, client, took_place, answered)
            self._check_side(client)
            self._check_files(client)
            self._check(state_of(asked(client)), after, "removal of orphans")

    def _end(self, work: Work, client: Client, took_place: bool, answered: bool) -> None:
        """What did not take place is tried again, as clients do."""
        self._plain.commit()
        if not took_place:
            work.run(client)
        self.outcomes["answered" if answered else "whole" if took_place else "absent"] += 1
        self.outcomes[work.kind] += 1

    def _rehearse(self, work: Work) -> None:
        self._plain.begin()
        for statement in work.statements:
            statement.rehearse(self._plain)

    def _timed(self, work: Work, client: Client) -> None:
        begun = time.monotonic()
        work.run(client)
        took = time.monotonic() - begun
        self._usual[work.kind] = (self._usual.get(work.kind, took) + took) / 2

    def _killed_during(self, work: Work, client: Client) -> bool:
        """Whether there was an answer before the server was killed."""
        usual = self._usual.get(work.kind, _USUAL_S)
        killer = threading.Timer(self._rng.uniform(0, 1.1) * usual, self._server.kill)
        killer.start()
        answered = False
        try:
            self._timed(work, client)
            answered = True
        except LakehouseClientError as error:
            if error.code not in _GONE:
                raise
        finally:
            killer.join()
            with suppress(LakehouseClientError, adbc_driver_manager.Error):
                client.close()
        return answered

    # -- what has to be there -------------------------------------------------------------------------

    def _check(self, found: State, expected: State, what: str) -> None:
        assert found.keys() == expected.keys(), f"{what}: tables {sorted(found.keys() ^ expected.keys())}"
        for name, rows in expected.items():
            if not equal(rows, found[name]):
                raise AssertionError(f"{what}: {name} {_difference(rows, found[name])}")
        assert sum(sum(found[name]["amount"].to_pylist()) for name in "ab") == TOTAL

    def _check_side(self, client: Client) -> None:
        assert self._side.refused == []
        found = client.sql("select n from ledger").table()["n"].to_pylist()
        assert len(found) == len(set(found)), "numbers are there twice"
        assert self._side.told <= set(found) <= self._side.tried

    def _check_files(self, client: Client) -> None:
        """Have the orphans removed; what stays is what is referred to."""
        bucket_path = self._directory / "bucket"
        grow_old(bucket_path)
        bucket = open_local_bucket("primary", bucket_path)
        catalog = IcebergCatalog("lake", bucket, "warehouse", SystemClock(), refresh_s=0)
        for name in [*state_of(asked(client)), "ledger"]:
            if not catalog.table_exists("main", name):
                continue
            if name == "ledger":
                client.call("table.expire_snapshots", {"table": name})
            client.call("table.remove_orphans", {"table": name, "older_than_hours": 1})
            table = catalog.load("main", name)
            place = Path(bucket.local_path(bucket.key_of(table.metadata.location)))
            there, needed = stored(place), self._references.of(catalog, table)
            assert there == needed, f"files of {name}: not needed {there - needed}, lacking {needed - there}"


def _difference(expected: pa.Table, found: pa.Table) -> str:
    if expected.column_names != found.column_names:
        return f"has columns {found.column_names} rather than {expected.column_names}"
    due, there = (Counter(map(repr, table.to_pylist())) for table in (expected, found))
    return f"lacks {list((due - there).elements())[:3]} and has besides {list((there - due).elements())[:3]}"


if __name__ == "__main__":
    main(Trial, 200)
