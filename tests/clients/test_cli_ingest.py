"""``lakehouse ingest`` with files, directories and objects, against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from conftest import start_server
from lakehouse_client import connect

from flight_server.cli import cli

if TYPE_CHECKING:
    from conftest import Server

PEOPLE = "id,name,born\n1,Ann,1980-02-03\n2,Bö,1990-12-31\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("ingest"), '[auth]\nanonymous_role = "admin"\n')
    yield running
    assert running.stop() == 0


@pytest.fixture
def ingest(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["ingest", *arguments, "--uri", server.uri])

    return run


def rows(server: Server, table: str) -> Any:
    with connect(server.uri) as client, client.sql(f"FROM {table} ORDER BY ALL") as found:
        return found.table().to_pylist()


def test_a_file_comes_once_unless_it_is_to_come_again(server: Server, ingest: Callable[..., Result]) -> None:
    Path("people.csv").write_text(PEOPLE)
    said = ingest("people.csv", "--into", "cli.people").stdout
    assert said.startswith("people.csv: 2 rows into lake.cli.people (run ")
    said = ingest("people.csv", "--into", "cli.people").stdout
    assert said == "people.csv: its rows are in lake.cli.people already (--again brings them again)\n"
    assert len(rows(server, "cli.people")) == 2
    ingest("people.csv", "--into", "cli.people", "--again")
    assert len(rows(server, "cli.people")) == 4
    ingest("people.csv", "--into", "cli.people", "--mode", "replace", "--again")
    assert [row["name"] for row in rows(server, "cli.people")] == ["Ann", "Bö"]


def test_the_files_of_a_directory_come_one_by_one(server: Server, ingest: Callable[..., Result]) -> None:
    for day in range(1, 4):
        Path("days").mkdir(exist_ok=True)
        Path(f"days/{day}.jsonl").write_text(f'{{"day": {day}, "seen": [{day}]}}\n')
    said = ingest("days", "--into", "cli.days", "--mode", "create")
    assert [line.split(" (run")[0] for line in said.stdout.splitlines()] == [
        f"days/{day}.jsonl: 1 row into lake.cli.days" for day in range(1, 4)
    ]
    assert rows(server, "cli.days") == [{"day": day, "seen": [day]} for day in range(1, 4)]


def test_objects_come_in_one_commit(server: Server, ingest: Callable[..., Result]) -> None:
    with connect(server.uri) as client:
        for number in range(3):
            client.put_object("primary", f"in/{number}.csv", f"id\n{number}\n".encode())
    said = ingest("bucket://primary/in/*.csv", "--into", "cli.numbers").stdout
    assert said.startswith("primary/in/*.csv (3 objects): 3 rows into lake.cli.numbers (run ")
    assert rows(server, "cli.numbers") == [{"id": 0}, {"id": 1}, {"id": 2}]


def test_only_new_objects_come(server: Server, ingest: Callable[..., Result]) -> None:
    command = ("bucket://primary/again/*.csv", "--into", "cli.again", "--sync")
    with connect(server.uri) as client:
        client.put_object("primary", "again/1.csv", b"id\n1\n")
        assert ingest(*command).stdout.startswith("primary/again/: 1 new\nprimary/again/*.csv")
        assert ingest(*command).stdout == "primary/again/: 0 new, 1 known\n"
        client.put_object("primary", "again/2.csv", b"id\n2\n")
        assert "primary/again/: 1 new, 1 known\n" in ingest(*command).stdout
        client.put_object("primary", "again/1.csv", b"id\n3\n")
        assert "'again/1.csv' was brought before" in str(ingest(*command).exception)
    assert rows(server, "cli.again") == [{"id": 1}, {"id": 2}]


def test_what_does_not_fit_is_kept_apart_with_its_reason(
    server: Server, ingest: Callable[..., Result]
) -> None:
    Path("bad.csv").write_text("id,amount\n1,10\n2,ten\n")
    failed = ingest("bad.csv", "--into", "cli.bad", "--type", "amount=INTEGER")
    assert failed.exit_code == 1
    assert "'bad.csv' line 3, column 'amount': 'ten' is no int32" in str(failed.exception)
    said = ingest("bad.csv", "--into", "cli.bad", "--type", "amount=INTEGER", "--on-error", "reject")
    assert "1 row into lake.cli.bad, 1 rejected into lake.cli.bad_rejects" in said.stdout
    [rejected] = rows(server, "cli.bad_rejects")
    assert (rejected["line"], rejected["content"]) == (3, "2,ten")


@pytest.mark.parametrize("where", ["people.csv", "bucket://primary/seen.csv"])
def test_a_preview_shows_columns_and_rows(server: Server, ingest: Callable[..., Result], where: str) -> None:
    Path("people.csv").write_text(PEOPLE)
    with connect(server.uri) as client:
        client.put_object("primary", "seen.csv", PEOPLE.encode())
    said = ingest(where, "--into", "cli.unmade", "--preview").stdout
    assert "delimiter comma" in said
    assert "all 2 values" in said
    assert said.count("date32[day]") == 2
    assert "1990-12-31" in said
    with pytest.raises(Exception, match="_NOT_FOUND"):
        rows(server, "cli.unmade")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("people.csv", "--into", "a.b.c.d"), "found 'a.b.c.d'"),
        (("nowhere.csv", "--into", "cli.x"), "nowhere.csv"),
        (("empty", "--into", "cli.x"), "there is no file in empty"),
        (("people.csv", "--into", "cli.x", "--sync"), "not about files that are sent"),
        (("bucket://primary/one.csv", "--into", "cli.x", "--sync"), "--sync is about all objects that fit"),
        (("bucket://primary", "--into", "cli.x"), "expected bucket://NAME/KEY"),
        (("people.csv", "--into", "cli.x", "--type", "id"), "expected column=TYPE, found 'id'"),
        (("people.csv", "--into", "cli.x", "--type", "nope=DATE"), "nope"),
    ],
)
def test_what_makes_no_sense_is_said_to(
    ingest: Callable[..., Result], arguments: tuple[str, ...], message: str
) -> None:
    Path("people.csv").write_text(PEOPLE)
    Path("empty").mkdir()
    failed = ingest(*arguments)
    assert failed.exit_code != 0
    assert message in failed.output + str(failed.exception)
