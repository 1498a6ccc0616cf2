"""What docs/security.md tells people to copy, run as it stands there, but for addresses and secrets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import need
from doors import PASSWORD, TOKEN, Street, environment_of_clients, open_street
from logins import BUILD, JDBC_VERSIONS, java_program, make_trust_store

pytestmark = pytest.mark.timeout(240)

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
# By heading: what each block prints.
PYTHON = {
    "ADBC": [["alice", "dashboard"], ["etl"]],
    "polars, pandas": [["dashboard", "dashboard"]],
    "SQLAlchemy": [["dashboard"]],
    "pyarrow.flight": [["alice", "dashboard"]],
    "lakehouse_client, lakehouse": [["alice", "dashboard", "etl"]],
}
JDBC = ["alice", "dashboard", "dashboard", "etl", "dashboard"]


def blocks(language: str) -> dict[str, list[str]]:
    """The blocks of a language by the heading that they stand under."""
    found: dict[str, list[str]] = {}
    connecting = PAGE.split("## Connecting", 1)[1]
    for section in re.split(r"^### ", connecting, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        inside = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if inside:
            found[heading] = inside
    return found


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    with open_street(tmp_path_factory.mktemp("street"), "tls", "mutual") as opened:
        yield opened


@pytest.fixture
def desk(street: Street, tmp_path: Path) -> Path:
    """A directory with the files that the examples name."""
    authority, etl = street.doors["tls"].authority, street.credentials["etl"]
    assert authority is not None
    assert etl.certificate is not None
    assert etl.key is not None
    shutil.copy(authority, tmp_path / "authority.pem")
    shutil.copy(etl.certificate, tmp_path / "etl.pem")
    shutil.copy(etl.key, tmp_path / "etl.key")
    return tmp_path


def here(text: str, street: Street) -> str:
    """The text with the addresses of the servers of the test."""
    for host, door in (("lake", "tls"), ("vault", "mutual")):
        port = street.doors[door].port
        text = text.replace(f"{host}.example.org:31337", f"127.0.0.1:{port}")
        text = text.replace(
            f'host="{host}.example.org",\n    port=31337', f'host="127.0.0.1",\n    port={port}'
        )
    assert "example.org" not in text
    return text


def run(command: list[str], desk: Path) -> str:
    """What a program prints."""
    secrets = {"LAKEHOUSE_PASSWORD": PASSWORD, "LAKEHOUSE_TOKEN": TOKEN}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # What pandas says about connections that are not SQLAlchemy's is for people.
    environment = {**environment_of_clients(), **secrets, "PATH": path, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, cwd=desk, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert {heading: len(found) for heading, found in blocks("python").items()} == {
        heading: len(expected) for heading, expected in PYTHON.items()
    }
    assert list(blocks("sh")) == ["lakehouse_client, lakehouse"]
    assert list(blocks("text")) == ["JDBC, DBeaver"]


@pytest.mark.parametrize(
    ("heading", "number"), [(heading, n) for heading, each in PYTHON.items() for n in range(len(each))]
)
def test_python(street: Street, desk: Path, heading: str, number: int) -> None:
    printed = run([sys.executable, "-c", here(blocks("python")[heading][number], street)], desk)
    expected = PYTHON[heading][number]
    lines = printed.splitlines()
    assert len(lines) == len(expected)
    assert [name for name, line in zip(expected, lines, strict=True) if name not in line] == []


def test_shell(street: Street, desk: Path) -> None:
    ((script,),) = blocks("sh").values()
    printed = run(["sh", "-e", "-c", here(script, street)], desk)
    assert re.findall(r"\b(alice|dashboard)\b", printed) == ["dashboard", "alice"]


def test_jdbc(street: Street, desk: Path) -> None:
    java, keytool = need("java"), need("keytool")
    version = JDBC_VERSIONS[0]
    jar = BUILD / "jdbc" / f"flight-sql-jdbc-driver-{version}.jar"
    if not jar.is_file() and not os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
        pytest.skip(f"make jdbc has not made {jar.name}")
    make_trust_store(keytool, desk / "authority.pem", desk / "authority.p12")
    ((text,),) = blocks("text").values()
    urls = here(text, street)
    for name in ("authority.pem", "authority.p12", "etl.pem", "etl.key"):
        urls = urls.replace(f"={name}", f"={desk / name}")
    urls = urls.replace("PASSWORD", urllib.parse.quote(PASSWORD, safe="")).replace("TOKEN", TOKEN)
    lines = [(str(n), url) for n, url in enumerate(urls.splitlines())]
    outcomes = java_program(java, BUILD / "jdbc" / "classes", jar, lines)
    assert [outcomes[str(n)].error for n in range(len(JDBC))] == [""] * len(JDBC)
    assert [outcomes[str(n)].principal for n in range(len(JDBC))] == JDBC
