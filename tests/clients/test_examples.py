"""The programs under clients/examples, run as their readers run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import need

if TYPE_CHECKING:
    from conftest import Server

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"
JDBC = Path(__file__).parents[2] / "build" / "jdbc"

# What a reader should see, among whatever else is printed.
PYTHON = {
    "adbc": ["{'dest': 'SFO', 'flights': 602}", "3 rows loaded", "(3, None)", "'weather'"],
    "flight_plain": ["lake.nyc.flights 336776 rows", "336776 rows read", "'distance': 4983", "lake"],
    "lakehouse_python": ["336776 rows streamed", "[{'n': 3}]", "snapshot now", "SQL_SYNTAX"],
    "pandas_read_write": ["timestamp[us, tz=UTC][pyarrow]", "3 rows written", "EWR  10.94"],
    "polars_read_write": ["5 rows written", "shape: (2, 3)", "JFK"],
    "sqlalchemy_query": ["'nyc'", "EWR 4912", "JFK 11262", "United Air Lines Inc."],
}


def run(command: list[str], directory: Path = EXAMPLES) -> str:
    """What a program prints; fails with its standard error."""
    environment = {**os.environ, "PYTHONWARNINGS": "error", "COLUMNS": "120"}
    done = subprocess.run(
        command, check=False, cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_example_is_run_here_or_named_as_not_run() -> None:
    programs = {file.stem for file in EXAMPLES.glob("*.py")}
    assert programs == set(PYTHON)
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = {file.name for file in EXAMPLES.iterdir() if file.name != "README.md"}
    assert {name for name in files if f"({name}" not in readme} == set()


@pytest.mark.parametrize("name", sorted(PYTHON))
def test_python_examples(server: Server, name: str) -> None:
    printed = run([sys.executable, f"{name}.py", server.uri])
    assert [text for text in PYTHON[name] if text not in printed] == [], printed


@pytest.mark.parametrize("name", ["adbc", "lakehouse_python", "pandas_read_write", "polars_read_write"])
def test_examples_can_be_run_twice(server: Server, name: str) -> None:
    run([sys.executable, f"{name}.py", server.uri])
    run([sys.executable, f"{name}.py", server.uri])


def test_java_example(server: Server) -> None:
    java = need("java")
    named = re.findall(r"flight-sql-jdbc-driver-[\d.]+\.jar", (EXAMPLES / "Jdbc.java").read_text())
    assert len(named) == 1
    jar = JDBC / named[0]
    if not jar.exists():
        text = f"{jar.name} is missing: run make jdbc"
        if os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
            pytest.fail(text)
        pytest.skip(text)
    url = f"jdbc:arrow-flight-sql://127.0.0.1:{server.port}"
    flags = ["--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", str(jar)]
    printed = run([java, *flags, "Jdbc.java", url])
    assert printed.split() == [
        *("nyc.airlines nyc.airports nyc.flights nyc.planes nyc.weather".split()),
        *("SFO 6819 LAX 5823 LAS 2010".split()),
    ]


@pytest.mark.timeout(600)  # the first build compiles gRPC and Arrow
def test_go_example(server: Server) -> None:
    """Skipped without Go or its modules even where nothing else may be: Go is not asked of a bare machine."""
    go = next((p for p in (Path(d) / "go" for d in os.environ["PATH"].split(os.pathsep)) if p.exists()), None)
    if go is None:
        pytest.skip("go is not installed")
    fetched = subprocess.run(
        [str(go), "mod", "download"], cwd=EXAMPLES / "go", check=False, capture_output=True, text=True
    )
    if fetched.returncode != 0:
        pytest.skip(f"the modules cannot be fetched: {fetched.stderr[-200:]}")
    assert (
        run([str(go), "run", ".", server.uri], EXAMPLES / "go").split()
        == "SFO 6819 LAX 5823 LAS 2010".split()
    )
