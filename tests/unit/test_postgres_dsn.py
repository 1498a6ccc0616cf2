"""What a DSN may say, and that nothing of it is ever shown."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.config.secret_ref import SecretRef
from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.postgres import Dsn, PostgresSource, Query
from lakehouse.ingest.sources.postgres.redaction import redacted

SECRET = "hunter2/@:x"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://bob:hunter2%2F%40%3Ax@db.example:5433/sales?sslmode=require",
        r"host=db.example port=5433 dbname=sales user=bob password=hunter2/@:x options=-capp.key=hunter2/@:x",
    ],
)
def test_a_dsn_shows_host_port_and_database_only(text: str) -> None:
    dsn = Dsn.parse(text)
    assert f"password={SECRET}" in dsn.conninfo()
    assert str(dsn) == "postgresql://db.example:5433/sales"
    shown = f"{dsn} {dsn!r} {dsn.scrub(f'no entry for {SECRET} or hunter2%2F%40%3Ax')}"
    assert "hunter2" not in shown
    source = PostgresSource(
        dsn, Query(f"SELECT * FROM dblink('password={SECRET}', $$ SELECT 1 $$) -- {SECRET}")
    )
    assert source.described == "postgresql://db.example:5433/sales SELECT * FROM dblink('…', '…')"
    assert "hunter2" not in repr(source)


def test_the_password_is_read_from_its_reference_at_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    dsn = Dsn.parse("postgresql://bob@db/x", SecretRef(file=file))
    for password in ("one", "two"):
        file.write_text(password)
        file.chmod(0o600)
        assert f"password={password}" in dsn.conninfo()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"nonsense {SECRET}", "cannot be read"),
        (f"postgresql://bob:{SECRET}@db/x?nope={SECRET}", "cannot be read"),
        ("", "cannot be read"),
        ("dbname=x user=bob", "names no host"),
        ("postgresql://db/x", "names no user"),
        ("host=/var/run/postgresql user=bob", "local socket"),
        ("host=db,/tmp user=bob", "local socket"),
        ("postgresql://bob@db/x?sslkey=/etc/key", "sslkey"),
        ("postgresql://bob@db/x?passfile=/root/.pgpass&service=x", "passfile, service"),
        ("postgresql://bob@db/x?sslmode=maybe", "sslmode is 'maybe'"),
        ("postgresql://bob@db/x?client_encoding=latin1", "client_encoding"),
    ],
)
def test_a_dsn_that_cannot_be_used_is_refused_without_repeating_it(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Dsn.parse(text)
    assert says in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_password_in_both_places_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="give one"):
        Dsn.parse("postgresql://bob:x@db/x", SecretRef(env="HOME"))


def test_files_of_the_machine_are_for_the_operator() -> None:
    text = "postgresql://bob@db/x?sslmode=verify-full&sslrootcert=/etc/ca.pem"
    with pytest.raises(InvalidRequest, match="sslrootcert"):
        Dsn.parse(text)
    assert "sslrootcert=/etc/ca.pem" in Dsn.parse(text, local=True).conninfo()


def test_the_environment_of_the_server_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSSLCERT", "PGOPTIONS"):
        monkeypatch.setenv(name, "of the server")
    text = Dsn.parse("postgresql://bob@db/x").conninfo()
    assert "password=''" in text
    assert "passfile=/nonexistent" in text
    assert "options=''" in text
    assert "sslcertmode=disable" in text


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT 'a''b', E'\\'x', \"col'umn\" FROM t", "SELECT '…', '…', \"col'umn\" FROM t"),
        ("SELECT $q$ a 'b' $q$ /* secret */ + 1 -- secret\nFROM t", "SELECT '…' + 1 FROM t"),
        (
            "SELECT * FROM t WHERE d >= '2020-01-01' AND n > 5",
            "SELECT * FROM t WHERE d >= '2020-01-01' AND n > 5",
        ),
        ("SELECT 'open", "SELECT '…'"),
        ("SELECT U&'x', B'01' /* open", "SELECT '…', '…'"),
    ],
)
def test_a_query_is_shown_without_its_texts(query: str, shown: str) -> None:
    assert redacted(query).strip() == shown


@given(st.text(alphabet="ab$'\"-/*\\\n E", max_size=40))
def test_no_text_gets_past_its_quotes(before: str) -> None:
    closed = "".join(c for c in before if c in "ab \n")
    assert "hunter2" not in redacted(f"SELECT {closed} 'hunter2' , $x$hunter2$x$ , E'\\'hunter2'")
