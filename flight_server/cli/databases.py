"""What ``lakehouse ingest`` does with databases."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from flight_server.cli.database_password import with_asked_password, with_password
from flight_server.cli.options import listing, print_listing
from flight_server.cli.querying import call_with_progress

if TYPE_CHECKING:
    from lakehouse_client import Client

_URIS = ("postgresql://", "postgres://")
_SOURCE = "source://"
_NO_PASSWORD = "no password supplied"  # noqa: S105 - what libpq says

DATABASE = (
    click.option("--table", "relation", help="Of a database: the table or view, as schema.name."),
    click.option("--query", help="Or a SELECT whose rows are wanted."),
    click.option(
        "--all",
        "whole",
        is_flag=True,
        help="Or all tables, as of one moment, each into one of its name; --into is a schema then, or left "
        "out for the same schemas as there.",
    ),
    click.option("--schema", "schemas", multiple=True, help="With --all: only tables of this one. Repeat."),
    click.option(
        "--include",
        multiple=True,
        metavar="PATTERN",
        help="With --all: only such tables, table or schema.table, with * and ?. Repeat.",
    ),
    click.option(
        "--exclude", multiple=True, metavar="PATTERN", help="With --all: leave such tables out. Repeat."
    ),
    click.option(
        "--run-key",
        metavar="TEXT",
        help="Runs of the same key bring the same rows, and only the first does anything, as for the rows of "
        "a day. Files have their content as key.",
    ),
    click.option(
        "--batch-bytes",
        type=click.IntRange(1 << 16, 64 << 20),
        help="Of a database: about how many bytes come at a time [default: 8388608].",
    ),
    click.option(
        "--connections",
        type=click.IntRange(1, 16),
        help="Of a database: how many read parts of a table at once [default: 2].",
    ),
    click.option(
        "--watermark", metavar="COLUMN", help="With --sync, of a database: its values grow from row to row."
    ),
    click.option(
        "--overlap",
        metavar="AMOUNT",
        help="With --sync: how far below the last watermark new rows may be, '10 minutes' or '1000'.",
    ),
    click.option("-W", "--ask-password", is_flag=True, help="Ask for the password of a database first."),
)


@dataclass(frozen=True)
class FromDatabase:
    """What is wanted of a database; the options of ``DATABASE``."""

    relation: str | None
    query: str | None
    whole: bool
    schemas: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    batch_bytes: int | None
    connections: int | None
    watermark: str | None
    overlap: str | None
    ask_password: bool

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> FromDatabase:
        """Take these options out of all that there are."""
        return cls(**{name: options.pop(name) for name in cls.__dataclass_fields__})

    @property
    def says_anything(self) -> bool:
        """Whether any of the options was given."""
        parts = (self.relation, self.query, self.whole, self.schemas, self.include, self.exclude)
        return any((*parts, self.watermark, self.overlap, self.reading, self.ask_password))

    def check(self) -> None:
        """Make sure that the options go together.

        Raises:
            UsageError: They do not.
        """
        if sum((self.relation is not None, self.query is not None, self.whole)) != 1:
            raise click.UsageError("of a database, one of --table, --query and --all has to be given")
        if not self.whole and (self.schemas or self.include or self.exclude):
            raise click.UsageError("--schema, --include and --exclude go with --all")

    def check_sync(self, *, wanted: bool) -> None:
        """Make sure that the options go together with bringing what is new, or with not doing so.

        Raises:
            UsageError: They do not.
        """
        if wanted and (self.watermark is None or self.whole or self.reading):
            raise click.UsageError(
                "--sync of a database needs --watermark, and knows no --all, --batch-bytes and --connections"
            )
        if not wanted and (self.watermark is not None or self.overlap is not None):
            raise click.UsageError("--watermark and --overlap go with --sync")

    @property
    def reading(self) -> dict[str, Any]:
        """How to read, as far as it was said."""
        said = {"batch_bytes": self.batch_bytes, "connections": self.connections}
        return {name: value for name, value in said.items() if value is not None}


def is_database(source: str) -> bool:
    """Whether what rows come from is a database."""
    return source.startswith((*_URIS, _SOURCE))


def call(client: Client, name: str, source: str, body: dict[str, Any], *, ask: bool) -> dict[str, Any]:
    """Run an action about a database, with the password that it wants.

    Args:
        client: The connection.
        name: Which action.
        source: ``source://NAME`` or the URI of a database.
        body: The rest of the request.
        ask: Whether to ask for the password at once.
    """
    if source.startswith(_SOURCE):
        return call_with_progress(client, name, {"source": source.removeprefix(_SOURCE).rstrip("/"), **body})
    if ask:
        return call_with_progress(client, name, {"dsn": with_asked_password(source), **body})
    try:
        return call_with_progress(client, name, {"dsn": with_password(source), **body})
    except Exception as error:
        if _NO_PASSWORD not in str(error) or not sys.stdin.isatty():
            raise
    return call_with_progress(client, name, {"dsn": with_asked_password(source), **body})


def show_runs(runs: list[dict[str, Any]]) -> None:
    """What became of several tables."""
    table = listing("table", "state", "rows", "")
    table.columns[2].justify = "right"
    for run in runs:
        note = run["message"] if run["state"] == "failed" else ""
        table.add_row(run["table"], run["state"], f"{run['rows_stored']:,}", note)
    print_listing(table)
