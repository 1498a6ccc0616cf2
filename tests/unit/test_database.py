"""The engine's DuckDB database as several threads use it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pyarrow.parquet as pq
import pytest

from lakehouse.config import EngineSettings
from lakehouse.engine.database import DuckDatabase

_TWINS = 4


@pytest.fixture
def database() -> Iterator[DuckDatabase]:
    database = DuckDatabase(EngineSettings(), ["lake"], [])
    yield database
    database.close()


def test_tables_with_the_same_columns_share_an_empty_file_and_others_have_another(
    database: DuckDatabase,
) -> None:
    wanted = [((f"c{number}", "INTEGER"),) for number in range(10)]
    starts = Barrier(_TWINS)

    def first_use() -> list[str]:
        found = []
        for columns in wanted:
            starts.wait()
            found.append(database.empty_file_of(columns))
        return found

    with ThreadPoolExecutor(_TWINS) as pool:
        files = [use.result() for use in [pool.submit(first_use) for _ in range(_TWINS)]]
    assert files[1:] == files[:-1]
    assert [pq.read_schema(file).names for file in files[0]] == [[columns[0][0]] for columns in wanted]
