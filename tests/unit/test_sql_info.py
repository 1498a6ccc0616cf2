"""GetSqlInfo and GetXdbcTypeInfo: every code, in the union child clients cast to, and true of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from flight_server import __version__
from flight_server.context import CallContext
from flight_server.handlers import sql_info, xdbc
from flight_server.protocol.commands import GetSqlInfo, GetXdbcTypeInfo
from flight_server.protocol.result_schemas import GET_SQL_INFO, GET_XDBC_TYPE_INFO, SQL_INFO_VALUE
from lakehouse.config import Settings
from lakehouse.engine.gate import check_function
from lakehouse.engine.vocabulary import Vocabulary
from lakehouse.runtime import Lakehouse

CODES = [*range(12), 100, 101, *range(500, 577)]
# Which child the JDBC driver (a cast), the ODBC driver (an unchecked cast) and ADBC expect.
CHILDREN = {
    "string_value": {0, 1, 2, 6, 7, 504, 513, 514, 529, 530, 531},
    "bool_value": {
        *(3, 4, 5, 9, 10, 11, 500, 501, 502, 506, 515, 516, 518, 519, 520, 521, 523, 524, 527, 532, 536, 537),
        *(539, 556, 563, 565, 566, 572, 573, 574, 575, 576),
    },
    "bigint_value": {503, 505, 507, *range(541, 556), *range(557, 563)},
    "int32_bitmask": {8, 100, 101, 522, 525, 526, 528, 533, 534, 535, 538, 540, 564, *range(567, 572)},
    "string_list": {508, 509, 510, 511, 512},
    "int32_to_int32_list_map": {517},
}
WORDS = Vocabulary((), (), (), (), ())


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CallContext]:
    bucket: Path = tmp_path_factory.mktemp("bucket")
    settings = Settings.model_validate({"buckets": [{"path": str(bucket)}], "session": {"max_sessions": 77}})
    lakehouse = Lakehouse(settings)
    yield CallContext(lakehouse, lakehouse.sessions.get("test", lakehouse.anonymous))
    lakehouse.close()


@pytest.fixture
def engine(ctx: CallContext) -> Iterator[duckdb.DuckDBPyConnection]:
    cursor = ctx.lakehouse.engine.database.private_cursor()
    yield cursor
    cursor.close()


def fetch(ctx: CallContext, *codes: int) -> pa.Table:
    handler = sql_info.query_handlers()[GetSqlInfo]
    result = handler.stream(ctx, GetSqlInfo(codes))
    return pa.Table.from_batches(list(result.batches), result.schema)


def values(ctx: CallContext, *codes: int) -> dict[int, Any]:
    return {row["info_name"]: row["value"] for row in fetch(ctx, *codes).to_pylist()}


def test_every_code_of_the_protocol_and_no_other_is_answered(ctx: CallContext) -> None:
    assert fetch(ctx, *CODES)["info_name"].to_pylist() == CODES
    assert fetch(ctx, *range(700))["info_name"].to_pylist() == CODES


def test_all_codes_are_those_that_old_jdbc_drivers_know(ctx: CallContext) -> None:
    # The drivers 10 to 16 ask for all of them, and any number unknown to them breaks their DatabaseMetaData.
    assert fetch(ctx)["info_name"].to_pylist() == [code for code in CODES if code not in (10, 11)]


def test_every_code_is_in_the_child_that_clients_cast_to(ctx: CallContext) -> None:
    assert sorted(code for codes in CHILDREN.values() for code in codes) == CODES
    expected = {code: name for name, codes in CHILDREN.items() for code in codes}
    table = fetch(ctx, *CODES)
    union = table["value"].combine_chunks()
    names = [SQL_INFO_VALUE.field(code).name for code in union.type_codes.to_pylist()]
    assert dict(zip(table["info_name"].to_pylist(), names, strict=True)) == expected


def test_schema_is_the_reference_schema_down_to_nullability(ctx: CallContext) -> None:
    handler = sql_info.query_handlers()[GetSqlInfo]
    plan = handler.info(ctx, GetSqlInfo(), b"ticket")
    assert plan.schema.equals(GET_SQL_INFO, check_metadata=True)
    assert plan.total_records == len(CODES) - 2
    assert [endpoint.ticket for endpoint in plan.endpoints] == [b"ticket"]
    table = fetch(ctx)
    assert table.schema.equals(GET_SQL_INFO)
    assert not any(table.schema.field("value").type.field(i).nullable for i in range(6))
    table.validate(full=True)


def test_result_survives_the_wire_format(ctx: CallContext) -> None:
    table = fetch(ctx)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    read = pa.ipc.open_stream(sink.getvalue()).read_all()
    assert read.schema.equals(GET_SQL_INFO)
    assert read.to_pylist() == table.to_pylist()


def test_only_what_was_asked_for_is_answered(ctx: CallContext) -> None:
    assert fetch(ctx, 8, 0, 8)["info_name"].to_pylist() == [8, 0]


def test_unknown_codes_are_left_out(ctx: CallContext) -> None:
    assert fetch(ctx, 12, 1, 499, 577, 2**32 - 1)["info_name"].to_pylist() == [1]
    assert fetch(ctx, 9999).num_rows == 0


def test_server_is_described_as_it_is(ctx: CallContext) -> None:
    found = values(ctx, 0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 549)
    assert found == {
        0: "Lakehouse Flight SQL",
        1: __version__,
        2: pa.__version__,
        3: False,
        4: True,
        5: False,
        8: 1,
        9: True,
        10: True,
        11: True,
        549: 77,
    }


def test_timeouts_are_told_in_milliseconds() -> None:
    told = sql_info.sql_info(
        Settings.model_validate(
            {"limits": {"statement_timeout_seconds": 2.5}, "session": {"idle_seconds": 10**9}}
        ),
        WORDS,
    )
    assert told[100][1] == 2500
    assert told[101][1] == 2**31 - 1
    assert sql_info.sql_info(Settings(), WORDS)[100][1] == 0


# -- what is told of the dialect is what the engine does ---------------------------------------------------


def test_nulls_sort_at_the_end(ctx: CallContext, engine: duckdb.DuckDBPyConnection) -> None:
    assert values(ctx, 507)[507] == 3
    for direction in ("ASC", "DESC"):
        rows = engine.execute(
            f"SELECT x FROM (VALUES (1), (NULL), (2)) t(x) ORDER BY x {direction}"
        ).fetchall()
        assert rows[-1] == (None,)


def test_identifiers_ignore_case_quoted_or_not(ctx: CallContext, engine: duckdb.DuckDBPyConnection) -> None:
    found = values(ctx, 503, 504, 505)
    assert found == {503: 1, 504: '"', 505: 1}
    assert engine.execute('SELECT ABC, "aBc" FROM (SELECT 1 AS "Abc")').fetchall() == [(1, 1)]


def test_further_characters_of_names_need_no_quotes(
    ctx: CallContext, engine: duckdb.DuckDBPyConnection
) -> None:
    for char in values(ctx, 514)[514]:
        assert engine.execute(f"SELECT a{char}b FROM (SELECT 1 AS a{char}b)").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("code", "sql"),
    [
        (515, "SELECT x AS y FROM (SELECT 1 AS x)"),
        (516, "SELECT 1 WHERE (NULL + NULL) IS NULL"),
        (518, "SELECT a.x FROM (SELECT 1 AS x) a"),
        (520, "SELECT x FROM (SELECT 1 AS x) ORDER BY x + 1"),
        (521, "SELECT x FROM (SELECT 1 AS x, 2 AS y) ORDER BY y"),
        (523, r"SELECT 1 WHERE 'a_b' LIKE 'a#_b' ESCAPE '#'"),
        (
            539,
            "SELECT 1 FROM (SELECT 1 AS x) a WHERE EXISTS (SELECT 1 FROM (SELECT 1 AS y) b WHERE b.y = a.x)",
        ),
    ],
)
def test_dialect_feature_is_announced_and_works(
    ctx: CallContext, engine: duckdb.DuckDBPyConnection, code: int, sql: str
) -> None:
    assert values(ctx, code)[code] is True
    assert len(engine.execute(sql).fetchall()) == 1


def test_functions_told_exist_and_may_be_called(ctx: CallContext, engine: duckdb.DuckDBPyConnection) -> None:
    found = values(ctx, 509, 510, 511, 512)
    known = {
        name.lower() for (name,) in engine.execute("SELECT function_name FROM duckdb_functions()").fetchall()
    }
    for names in found.values():
        assert names == sorted(set(names))
        assert set(names) <= known
        for name in names:
            check_function(name)
    for code, some in {
        509: {"abs", "round", "sqrt", "mod", "power", "pi", "random"},
        510: {"upper", "lower", "substring", "trim", "concat", "replace", "length", "regexp_matches"},
        511: {"current_user", "current_database", "version", "nullif"},
        512: {"now", "date_trunc", "year", "dayofweek", "strftime", "to_timestamp", "date_add"},
    }.items():
        assert some <= set(found[code])


def test_keywords_are_those_of_the_engine(ctx: CallContext) -> None:
    words = values(ctx, 508)[508]
    assert words == sorted(set(words))
    assert {"select", "pivot", "qualify", "asof"} <= set(words)
    assert not any("," in word for word in words)  # JDBC joins them with commas


# Per number of SqlSupportsConvert: a type of the engine and a value of it.
_CONVERT_TYPES: dict[int, tuple[str, str]] = {
    0: ("BIGINT", "1"),
    1: ("BINARY", "'ab'"),
    2: ("BOOLEAN", "true"),
    3: ("CHAR", "'1'"),
    4: ("DATE", "'2020-01-02'"),
    5: ("DECIMAL(9,2)", "1"),
    6: ("FLOAT", "1"),
    7: ("INTEGER", "1"),
    8: ("INTERVAL", "'1 day'"),
    9: ("INTERVAL", "'1 month'"),
    10: ("BLOB", "'ab'"),
    11: ("TEXT", "'1'"),
    12: ("NUMERIC(9,2)", "1"),
    13: ("REAL", "1"),
    14: ("SMALLINT", "1"),
    15: ("TIME", "'01:02:03'"),
    16: ("TIMESTAMP", "'2020-01-02 03:04:05'"),
    17: ("TINYINT", "1"),
    18: ("VARBINARY", "'ab'"),
    19: ("VARCHAR", "'1'"),
}


def test_conversions_told_are_those_the_engine_has(engine: duckdb.DuckDBPyConnection) -> None:
    told = dict(sql_info.conversions())
    found: dict[int, list[int]] = {}
    for source, (source_type, value) in _CONVERT_TYPES.items():
        engine.execute(f"CREATE OR REPLACE TEMP TABLE v AS SELECT {value}::{source_type} AS x")
        found[source] = [t for t, (kind, _) in _CONVERT_TYPES.items() if castable(engine, kind)]
    assert told == found


def castable(engine: duckdb.DuckDBPyConnection, kind: str) -> bool:
    try:
        engine.execute(f"SELECT x::{kind} FROM v").fetchall()
    except duckdb.ConversionException as error:
        return "Unimplemented type for cast" not in str(error)
    except duckdb.BinderException:
        return False
    return True


# -- types --------------------------------------------------------------------------------------------------


def types(ctx: CallContext, data_type: int | None = None) -> list[dict[str, Any]]:
    handler = xdbc.query_handlers()[GetXdbcTypeInfo]
    result = handler.stream(ctx, GetXdbcTypeInfo(data_type))
    assert result.schema.equals(GET_XDBC_TYPE_INFO)
    rows: list[dict[str, Any]] = pa.Table.from_batches(list(result.batches), result.schema).to_pylist()
    return rows


def test_types_are_sorted_and_complete(ctx: CallContext) -> None:
    rows = types(ctx)
    assert [(r["data_type"], r["type_name"]) for r in rows] == sorted(
        (r["data_type"], r["type_name"]) for r in rows
    )
    assert {
        "BOOLEAN",
        "BIGINT",
        "DOUBLE",
        "DECIMAL",
        "VARCHAR",
        "BLOB",
        "DATE",
        "TIME",
        "TIMESTAMP",
        "UUID",
    } <= {row["type_name"] for row in rows}
    assert all(row["local_type_name"] for row in rows)


def test_types_can_be_asked_for_by_number(ctx: CallContext) -> None:
    assert [row["type_name"] for row in types(ctx, 4)] == ["INTEGER", "USMALLINT"]
    assert types(ctx, 12345) == []


def test_type_names_are_types_of_the_engine(ctx: CallContext, engine: duckdb.DuckDBPyConnection) -> None:
    for row in types(ctx):
        engine.execute(f"SELECT NULL::{row['type_name']}").fetchall()


_LITERALS = {
    "VARCHAR": "x",
    "JSON": "{}",
    "UUID": "00000000-0000-0000-0000-000000000000",
    "BLOB": "ab",
    "DATE": "2020-01-02",
    "TIME": "01:02:03",
    "TIMESTAMP": "2020-01-02 03:04:05",
    "TIMESTAMP WITH TIME ZONE": "2020-01-02 03:04:05+00",
    "INTERVAL": "1 day",
}


def test_literals_are_written_as_told(ctx: CallContext, engine: duckdb.DuckDBPyConnection) -> None:
    quoted = {row["type_name"]: row for row in types(ctx) if row["literal_prefix"]}
    assert set(quoted) == set(_LITERALS)
    for name, row in quoted.items():
        literal = f"{row['literal_prefix']}{_LITERALS[name]}{row['literal_suffix']}"
        kind = engine.execute(f"SELECT typeof({literal})").fetchall()[0][0]
        assert kind in (name, "VARCHAR"), literal


def test_datetime_types_tell_their_subcode(ctx: CallContext) -> None:
    found = {row["type_name"]: (row["sql_data_type"], row["datetime_subcode"]) for row in types(ctx)}
    assert found["DATE"] == (9, 1)
    assert found["TIME"] == (9, 2)
    assert found["TIMESTAMP"] == (9, 3)
    assert found["TIMESTAMP WITH TIME ZONE"] == (9, 5)
    assert found["INTEGER"] == (4, None)
