"""The real Arrow Flight SQL JDBC driver in several versions, as DBeaver and other Java programs use it.

``tests/clients/jdbc`` holds a Java program that walks through what such programs do and prints one line for
each check. Every version in ``versions.txt`` walks once; each check of it is a test of its own here.
``make jdbc`` fetches the drivers and compiles the program.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.flight as flight
import pytest
from conftest import need

if TYPE_CHECKING:
    from conftest import Server

SOURCES = Path(__file__).parent / "jdbc"
BUILD = Path(__file__).parents[2] / "build" / "jdbc"
VERSIONS = tuple(re.findall(r"^\d\S*", (SOURCES / "versions.txt").read_text(encoding="utf-8"), re.MULTILINE))
CHECKS = tuple(
    name
    for source in sorted(SOURCES.glob("*Checks.java"))
    for name in re.findall(r'Check\.check\(\s*"([^"]+)"', source.read_text(encoding="utf-8"))
)
_WALK_SECONDS = 400
_ALL = VERSIONS
_BEFORE_17 = ("15.0.2", "12.0.1")
_BEFORE_18 = ("17.0.0", *_BEFORE_17)
_WITH_PARAMETERS = ("18.3.0", "17.0.0", "15.0.2")
# What a driver cannot do with any server: checks, versions, what the failure says. A driver or a server that
# does better fails the test, so that the line goes.
LIMITS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    # getObject has no branch for TIMESTAMP WITH TIME ZONE; DBeaver shows an error in such cells.
    (r"type\.timestamptz_as_object|dbeaver\.opens_a_table", ("18.3.0",), r"not implemented"),
    # The columns of a result without rows are listed twice (apache/arrow-java#44).
    (r"result\.empty", _WITH_PARAMETERS, r"expected 19 \(Integer\), found 38"),
    # Unsigned numbers are read as signed ones of the same width.
    (r"type\.unsigned_beyond_the_signed", _ALL, r"expected 200 \(Integer\), found -56"),
    (r"metadata\.column_remarks", _BEFORE_18, r"found \[carrier\|null"),
    # The catalog of the URL is not sent.
    (r"session\.refuses_an_unknown_catalog", _BEFORE_17, r"there was none"),
    (r"type\.interval", _BEFORE_17, r"Unsupported vector type: .*IntervalMonthDayNanoVector"),
    (r"type\.null", ("12.0.1",), r"not implemented"),
    (
        r"prepared\.(?!without_parameters|tells_its_columns|update_without_parameters).*",
        ("12.0.1",),
        r"parameter ordinal 1 out of range|parameters: expected \d+ \(Integer\), found 0",
    ),
)


@dataclass(frozen=True)
class Walk:
    """What one version of the driver did.

    Attributes:
        failures: Per check the reason of its failure, None where it went well.
        ending: How the program ended, for the message where checks are missing.
    """

    failures: dict[str, str | None]
    ending: str


def _missing() -> str | None:
    """Why the driver cannot be tested here; None where it can."""
    wanted = [f"flight-sql-jdbc-driver-{version}.jar" for version in VERSIONS] + ["classes/Walk.class"]
    missing = [name for name in wanted if not (BUILD / name).is_file()]
    return f"make jdbc has not made {', '.join(missing)}" if missing else None


def _walk(java: str, version: str, port: int) -> Walk:
    command = [
        java,
        # The driver shifts times by the zone of its process (apache/arrow-java#732).
        "-Duser.timezone=UTC",
        "-Dfile.encoding=UTF-8",
        "-Xmx1g",
        "-XX:TieredStopAtLevel=1",
        "--add-opens=java.base/java.nio=ALL-UNNAMED",
        "-cp",
        os.pathsep.join([str(BUILD / "classes"), str(BUILD / f"flight-sql-jdbc-driver-{version}.jar")]),
        "Walk",
        f"jdbc:arrow-flight-sql://127.0.0.1:{port}?useEncryption=false",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WALK_SECONDS, check=False)
        output, ending = done.stdout, f"exit status {done.returncode}: {done.stderr[-2000:]}"
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        ending = f"no end after {_WALK_SECONDS} s"
    failures: dict[str, str | None] = {}
    for line in output.splitlines():
        state, name, _, reason = [*line.split("\t", 3), "", "", ""][:4]
        if state in ("ok", "FAIL"):
            failures[name] = None if state == "ok" else reason
    return Walk(failures, ending)


@pytest.fixture(scope="module")
def walks(server: Server) -> Iterator[dict[str, Future[Walk]]]:
    """The walks of all versions, two at a time."""
    java, missing = need("java"), _missing()
    if missing and os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
        pytest.fail(f"{missing}, and nothing may be skipped here")
    if missing:
        pytest.skip(missing)
    with ThreadPoolExecutor(2) as pool:
        yield {version: pool.submit(_walk, java, version, server.port) for version in VERSIONS}


def limit(version: str, check: str) -> str | None:
    """What a check fails with on a version that cannot do it; None where it must go well."""
    return next(
        (said for names, versions, said in LIMITS if version in versions and re.fullmatch(names, check)),
        None,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("version", VERSIONS)
def test_jdbc(walks: dict[str, Future[Walk]], version: str, check: str) -> None:
    walk = walks[version].result()
    assert check in walk.failures, f"the driver did not get there, {walk.ending}"
    failure, expected = walk.failures[check], limit(version, check)
    if expected is None:
        assert failure is None
    else:
        assert failure is not None, f"version {version} can do this now: take it out of LIMITS"
        assert re.search(expected, failure)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", VERSIONS)
def test_no_check_of_the_program_is_left_out(walks: dict[str, Future[Walk]], version: str) -> None:
    walk = walks[version].result()
    assert sorted(walk.failures) == sorted(CHECKS)
    assert walk.ending.startswith("exit status 0"), walk.ending


def test_limits_are_of_checks_and_versions_that_there_are() -> None:
    assert len(CHECKS) > 100
    for names, versions, _ in LIMITS:
        assert set(versions) <= set(VERSIONS)
        assert any(re.fullmatch(names, check) for check in CHECKS)


@pytest.mark.timeout(600)
def test_no_statement_runs_on_after_its_client(walks: dict[str, Future[Walk]], server: Server) -> None:
    for walk in walks.values():
        walk.result()
    give_up = time.monotonic() + 60
    with server.client() as client:
        while True:
            [answer] = client.do_action(flight.Action("server.status", b"{}"))
            running = json.loads(answer.body.to_pybytes())["running_statements"]
            if running == 0:
                break
            assert time.monotonic() < give_up, f"{running} statements are running"
            time.sleep(0.1)


@pytest.mark.timeout(600)
def test_no_request_of_a_driver_makes_the_server_fail(walks: dict[str, Future[Walk]], server: Server) -> None:
    for walk in walks.values():
        walk.result()
    assert [line for line in server.log if "request failed" in line and "INTERNAL" in line] == []
