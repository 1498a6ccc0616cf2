"""The compliance tests of Python's DB API 2.0 (PyPI: dbapi-compliance) over ADBC.

What the driver does otherwise, whatever the server, stands in LIMITS; each is checked to be so still.
"""

from __future__ import annotations

import unittest

import adbc_driver_flightsql.dbapi as adbc
import dbapi20
import pytest

_EMPTY = "gives an empty result, where there should be none, after a statement that gives no rows"
LIMITS = {
    "test_Binary": "has no constructor Binary",
    "test_callproc": "calls no procedures",
    "test_non_idempotent_close": "lets a connection be closed twice",
    "test_description": _EMPTY,
    "test_fetchall": _EMPTY,
    "test_fetchone": _EMPTY,
}


class Compliance(dbapi20.DatabaseAPI20Test):
    """The suite, as it is told to be derived from."""

    driver = adbc

    def test_nextset(self):
        """For drivers with several results for a statement; this one has none, as it may."""

    def test_setoutputsize(self):
        """Every driver may do nothing here."""


# pytest would run the suite by itself as well.
Compliance.__test__ = False
NAMES = unittest.defaultTestLoader.getTestCaseNames(Compliance)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NAMES)
def test_dbapi20(name, server):
    test = Compliance(name)
    test.connect_args = (server.uri,)
    result = unittest.TestResult()
    test.run(result)
    failed = [trace for _, trace in (*result.failures, *result.errors)]
    assert result.testsRun == 1
    if name in LIMITS:
        assert failed, f"the driver no longer {LIMITS[name]}"
    else:
        assert not failed, failed[0]
