"""Who may bring rows where: the rights to a table hold for an ingest as for a statement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from callers import start_guarded, token
from conftest import Server
from lakehouse_client import Client, LakehouseClientError, connect

ROLES = {
    "blind": '{ on = "lake.hr.*", privileges = ["write"] }',
    "masked": '{ on = "lake.hr.people", privileges = ["read", "write"], '
    'row_filter = "region = \'eu\'", masks = { name = "hash" } }',
    "narrow": '{ on = "lake.hr.people", privileges = ["read", "write"] }',
}
CONFIG = '[[catalogs]]\nname = "other"\nwarehouse = "other"\n' + "".join(
    f"""
[[roles]]
name = "{name}"
actions = ["ingest.*"]
grants = [{grant}]
objects = [{{ on = "primary/in/*", privileges = ["read"] }}]
"""
    for name, grant in ROLES.items()
)
FILES = {
    "same": "id,name,region\n1,Ann2,us\n9,New,eu\n",
    "more": "id,name,region,more\n1,Ann2,us,x\n",
    "bad": "id,name,region\n8,Ok,eu\nx,Bad,eu\n",
}
BEFORE = [(1, "Ann", "us"), (2, "Bo", "eu")]
ADDED = [(1, "Ann", "us"), (1, "Ann2", "us"), (2, "Bo", "eu"), (9, "New", "eu")]
DENIED, NO_SCHEMA, NO_CATALOG = "PERMISSION_DENIED", "SCHEMA_NOT_FOUND", "CATALOG_NOT_FOUND"
EVERY_MODE = ("append", "create", "replace", "upsert")
# Who, which file, mode, and what is answered; then the rows that are there.
PEOPLE = [
    ("blind", "same", "append", "succeeded", ADDED),
    ("blind", "same", "create", "TABLE_ALREADY_EXISTS", BEFORE),
    ("blind", "same", "replace", DENIED, BEFORE),
    ("blind", "same", "upsert", DENIED, BEFORE),
    ("blind", "more", "append", DENIED, BEFORE),
    ("blind", "bad", "append", "succeeded", [*BEFORE, (8, "Ok", "eu")]),
    ("masked", "same", "append", "succeeded", ADDED),
    ("masked", "same", "replace", DENIED, BEFORE),
    ("masked", "same", "upsert", DENIED, BEFORE),
    ("masked", "more", "append", DENIED, BEFORE),
    ("narrow", "same", "append", "succeeded", ADDED),
    ("narrow", "same", "replace", "succeeded", [(1, "Ann2", "us"), (9, "New", "eu")]),
    ("narrow", "same", "upsert", "succeeded", [(1, "Ann2", "us"), (2, "Bo", "eu"), (9, "New", "eu")]),
    ("narrow", "bad", "append", DENIED, BEFORE),
]
ELSEWHERE = [
    ("blind", {"db_schema": "newschema", "table": "t"}, NO_SCHEMA),
    ("blind", {"db_schema": "x", "table": "t", "catalog": "other"}, NO_CATALOG),
    ("blind", {"db_schema": "x", "table": "t", "catalog": "nowhere"}, NO_CATALOG),
    ("blind", {"db_schema": "x", "table": "t", "catalog": "registered"}, NO_CATALOG),
    ("blind", {"db_schema": "system", "table": "events"}, NO_SCHEMA),
    ("masked", {"db_schema": "hr", "table": "people_rejects"}, DENIED),
    ("admin", {"db_schema": "hr", "table": "seen"}, "INVALID_REQUEST"),
    ("admin", {"db_schema": "x", "table": "t", "catalog": "registered"}, "NOT_SUPPORTED"),
    ("admin", {"db_schema": "x", "table": "t", "catalog": "nowhere"}, NO_CATALOG),
    ("admin", {"db_schema": "system", "table": "events"}, "INVALID_REQUEST"),
    ("admin", {"db_schema": "information_schema", "table": "tables"}, "INVALID_REQUEST"),
]


@dataclass
class Place:
    """A server and what an admin says to it."""

    server: Server
    admin: Client

    def bring(self, who: str, **request: Any) -> str:
        """Ask for an ingest; gives the state or the code of the error."""
        with connect(self.server.uri, token=token(who)) as lake:
            try:
                return str(lake.call("ingest.file", request)["state"])
            except LakehouseClientError as error:
                return error.code

    def people(self) -> list[tuple[Any, ...]]:
        found = self.admin.sql("SELECT id, name, region FROM hr.people ORDER BY ALL").table().to_pylist()
        return [tuple(row.values()) for row in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    server = start_guarded(tmp_path_factory.mktemp("access"), CONFIG, (*ROLES, "admin"))
    directory = server.directory / "bucket/in"
    directory.mkdir(parents=True)
    for name, content in FILES.items():
        (directory / f"{name}.csv").write_text(content)
    with connect(server.uri, token=token("admin")) as admin:
        admin.execute("CREATE SCHEMA hr")
        admin.execute("CREATE VIEW hr.seen AS SELECT 1 AS id")
        yield Place(server, admin)
    assert server.stop() == 0
    assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.parametrize(("who", "file", "mode", "answer", "after"), PEOPLE)
def test_a_table_that_is_there(
    place: Place, who: str, file: str, mode: str, answer: str, after: list[tuple[Any, ...]]
) -> None:
    place.admin.execute("DROP TABLE IF EXISTS hr.people_rejects")
    place.admin.execute("DROP TABLE IF EXISTS hr.people")
    place.admin.execute(
        "CREATE TABLE hr.people (id BIGINT NOT NULL, name VARCHAR, region VARCHAR, PRIMARY KEY (id))"
    )
    place.admin.execute("INSERT INTO hr.people VALUES (1, 'Ann', 'us'), (2, 'Bo', 'eu')")
    more: dict[str, Any] = {"types": {"id": "BIGINT"}, "on_error": "reject"} if file == "bad" else {}
    request = {"key": f"in/{file}.csv", "db_schema": "hr", "table": "people", "mode": mode, **more}
    assert place.bring(who, **request) == answer
    assert place.people() == after


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize(("who", "where", "answer"), ELSEWHERE)
def test_a_place_where_nothing_may_go(
    place: Place, mode: str, who: str, where: dict[str, str], answer: str
) -> None:
    request = {"key": "in/same.csv", "mode": mode, "keys": ["id"], **where}
    assert place.bring(who, **request) == answer
    assert place.admin.sql("SELECT id FROM hr.seen").table().to_pylist() == [{"id": 1}]


def test_another_catalog(place: Place) -> None:
    for mode in ("create", "append", "upsert", "replace"):
        request = {"key": "in/same.csv", "mode": mode, "keys": ["id"], "catalog": "other"}
        assert place.bring("admin", **request, db_schema="made", table=mode) == "succeeded"
        assert place.admin.sql(f"SELECT id FROM other.made.{mode} ORDER BY id").table()["id"].to_pylist() == [
            1,
            9,
        ]


def test_who_writes_without_reading_can_make_tables(place: Place) -> None:
    request = {"key": "in/same.csv", "db_schema": "hr", "keys": ["id"]}
    assert place.bring("blind", **request, table="made") == "succeeded"
    assert place.bring("blind", **request, table="made") == "repeated"
    assert place.admin.call("catalog.describe", {"table": "made", "db_schema": "hr"})["primary_key"] == ["id"]
