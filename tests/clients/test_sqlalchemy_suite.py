"""SQLAlchemy's own tests of a dialect (``sqlalchemy.testing.suite``) through sqlalchemy-adbc.

LAKEHOUSE_SQLALCHEMY_ALL=1 runs the groups as well that take as long as all others together.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from conftest import start_server

SUITE = Path(__file__).with_name("sqlalchemy_suite")
ALL = bool(os.environ.get("LAKEHOUSE_SQLALCHEMY_ALL"))
LONG = "BizarroCharacterTest", "ComponentReflectionTest.", "DifficultParametersTest", "TableViaSelectTest"
# Tests, what they fail with, and whose it is.
LIMITS = (
    # The server: a column draws no numbers by itself (Iceberg has no such thing) ...
    ("InsertBehaviorTest.test_(insert_from_select_autoinc|no_results_.*)", "'id' must not be NULL"),
    # ... and views are made outside of transactions, which the dialect opens before every statement.
    ("HasTableTest.*", "TRANSACTION_STATE.*views and names of tables"),
    (r"TableViaSelectTest.test_without_metadata\[use_schema1\]", "TRANSACTION_STATE.*views and names"),
    # It can RETURNING, which the dialect does not know.
    ("ReturningGuardsTest.test_(delete|update)_single", "did not raise"),
    # The engine divides integers into fractions, and decimals as floating point numbers.
    ("TrueDivTest.test_floordiv_integer(_bound|.*15-10-1.*)", r"1\.5 != 1"),
    (r"TrueDivTest.test_truediv_float\[5.52-2.4-2.3\]", "2.29999"),
    (
        r"TrueDivTest.test_truediv_divisor\[numeric_(38_digit|tiny)_divisor-untyped.*",
        "Casting value|Infinity",
    ),
    (r"TrueDivTest.test_truediv_divisor\[numeric_many_decimals.*", "7.0000000000000008|7.0027"),
    # The driver: no Binary; of columns no length, precision, nullability and default; no constraints.
    ("BinaryTest.*", "no attribute 'Binary'"),
    ("ComponentReflectionTestExtra.test_nullable_reflection", "'b': True"),
    ("ComponentReflectionTestExtra.test_numeric_reflection", "None != 18"),
    ("ComponentReflectionTestExtra.test_server_defaults.*", "NoneType"),
    ("ComponentReflectionTestExtra.test_string_length_reflection.*", "AssertionError"),
    (r"BizarroCharacterTest.test_fk_ref.*", "KeyError"),
    (r"ComponentReflectionTest.test_get_foreign_keys(\[.*|_quoted_name.*)", "list index out of range|0 != 1"),
    (r"ComponentReflectionTest.test_get_pk_constraint\[.*", "constrained_columns': \\[\\]"),
    ("CompositeKeyReflectionTest.test_fk_column_order", "0 != 1"),
    ("CompositeKeyReflectionTest.test_pk_column_order", r"\[\] != "),
    ("QuotedNameArgumentTest.test_get_foreign_keys.*", "AssertionError"),
    # The dialect: lists tables of the type "table", ours are "TABLE", as JDBC wants it.
    ("ComponentReflectionTest.test_get_(table|view)_names.*", r"\[\] != "),
    ("TableViaSelectTest.test_create_table_as_if_not_exists", "AssertionError"),
    # It finds nothing wrong with tables that there are not, and remembers nothing.
    (r"ComponentReflectionTest.test_not_existing_table\[.*", "did not raise"),
    ("ComponentReflectionTest.test_schema_cache", "True is not False"),
    # It writes LIMIT -1, and sends and takes decimals as floating point numbers, or the other way round.
    ("FetchLimitOffsetTest.test_(bound|expr|simple)_offset(_zero)?", "LIMIT/OFFSET cannot be negative"),
    ("NumericTest.test_(float_custom_scale|many_significant_digits|numeric_as_float)", "Decimal"),
    ("NumericTest.test_render_literal_numeric_asfloat", "AssertionError"),
    # And of an index that was never made it is asked for the name.
    (r"LongNameBlowoutTest.test_long_convention_name\[ix-.*", "list index out of range"),
)


HOLDING = [limit for limit in LIMITS if ALL or not limit[0].startswith(LONG)]


@dataclass
class Outcomes:
    """How the tests went: what those failed with that did, which were skipped, which went well.

    ``ending`` is the end of what the suite printed, ``log`` what the server says of its failures.
    """

    failures: dict[str, str]
    skipped: set[str]
    passed: set[str]
    ending: str
    log: list[str]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    directory = tmp_path_factory.mktemp("sqlalchemy")
    many = "[session]\nmax_sessions = 100000\nmax_sessions_per_principal = 100000"
    server = start_server(directory / "server", many)
    with server.adbc() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA test_schema")
    report = directory / "report.xml"
    command = [sys.executable, "-m", "pytest", "--quiet", "-c", os.devnull, f"--rootdir={SUITE}"]
    command += ["--noconftest", "--assert=plain", "-p", "sqlalchemy.testing.plugin.pytestplugin"]
    command += [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "hypothesispytest", "timeout")]
    command += [f"--dburi=adbc+flightsql://127.0.0.1:{server.port}?tls=false", f"--junitxml={report}"]
    command += ["--maxfail=10000", str(SUITE / "suite.py")]
    if not ALL:
        command += ["-k", f"not ({' or '.join(name.replace('.', '_flightsql') for name in LONG)})"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env={**os.environ, "PYTHONPATH": str(SUITE)},
        )
        failed = [line for line in server.log if "Traceback" in line or "[error" in line]
        yield _read(report, done.stdout[-2000:] + done.stderr[-2000:], failed)
    finally:
        server.kill()


def _read(report: Path, ending: str, log: list[str]) -> Outcomes:
    found = Outcomes({}, set(), set(), ending, log)
    if not report.exists():
        return found
    for case in ET.parse(report).iter("testcase"):
        group = case.get("classname", "").split(".")[-1].split("_flightsql")[0]
        name = f"{group}.{case.get('name')}"
        failure = case.find("failure") if case.find("failure") is not None else case.find("error")
        if failure is not None:
            lines = (failure.text or "").splitlines()
            found.failures[name] = "\n".join(line for line in lines if line.startswith("E  "))
        elif case.find("skipped") is not None:
            found.skipped.add(name)
        else:
            found.passed.add(name)
    return found


@pytest.mark.timeout(660)
def test_all_that_the_dialect_can_do_goes_well(outcomes: Outcomes) -> None:
    unexpected = {
        name: said
        for name, said in outcomes.failures.items()
        if not any(re.fullmatch(names, name) and re.search(why, said) for names, why in HOLDING)
    }
    assert unexpected == {}, "\n".join(outcomes.log[:20])
    assert len(outcomes.passed) > (420 if ALL else 300), outcomes.ending


@pytest.mark.timeout(660)
@pytest.mark.parametrize("names", [names for names, _ in HOLDING])
def test_what_does_not_go_is_named(outcomes: Outcomes, names: str) -> None:
    assert any(re.fullmatch(names, name) for name in outcomes.failures), "not needed: " + outcomes.ending
    well = [name for name in outcomes.passed if re.fullmatch(names, name)]
    assert well == [], "this goes now: take it out of LIMITS"
