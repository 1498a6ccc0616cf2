"""Which functions statements may call: every function of this DuckDB has been looked at, whichever way."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from lakehouse.engine.gate import StatementGate
from lakehouse.engine.gate_functions import (
    _BEFORE_BRACKET,
    FUNCTIONS,
    GRAMMAR_FUNCTIONS,
    TABLE_FUNCTIONS,
)
from lakehouse.errors import LakehouseError, NotSupported, SqlSyntaxError, StatementForbidden

# Looked at and refused. A name that DuckDB has and that stands nowhere has to be looked at: read what it
# does, and put it here or among the allowed ones.
REFUSED_VALUES = frozenset(
    """
    __between __cast bitstring_byte_comparable col_description combine combine_aggr current_query
    current_setting currval finalize format_pg_type format_type get_block_size getvariable
    has_any_column_privilege has_column_privilege has_database_privilege has_foreign_data_wrapper_privilege
    has_function_privilege has_language_privilege has_schema_privilege has_sequence_privilege
    has_server_privilege has_table_privilege has_tablespace_privilege hive_partition_component
    in_search_path index_key inet_client_addr inet_client_port inet_server_addr inet_server_port
    json_copy_strftime_if_date json_copy_strftime_if_timestamp json_deserialize_sql json_serialize_plan
    json_serialize_sql map_to_pg_oid nextval obj_description parse_duckdb_log_message
    pg_collation_is_visible pg_conf_load_time pg_conversion_is_visible pg_function_is_visible
    pg_get_constraintdef pg_get_expr pg_get_viewdef pg_has_role pg_is_other_temp_schema pg_my_temp_schema
    pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible pg_postmaster_start_time pg_sleep
    pg_table_is_visible pg_ts_config_is_visible pg_ts_dict_is_visible pg_ts_parser_is_visible
    pg_ts_template_is_visible pg_type_is_visible setseed setval shobj_description sleep_ms stats
    timetz_byte_comparable to_aggregate_state variant_bytes_to_variant variant_comparator
    variant_to_parquet_variant vector_type write_log
    """.split()
) | {"is distinct from", "is not distinct from"}
REFUSED_TABLES = frozenset(
    """
    arrow_scan arrow_scan_dumb checkpoint create_external_resource deregister_external_resource
    destroy_external_resource disable_logging disable_profiling duckdb_approx_database_count
    duckdb_available_metrics duckdb_columns duckdb_connection_count duckdb_constraints
    duckdb_coordinate_systems duckdb_databases duckdb_dependencies duckdb_dialects duckdb_eviction_queues
    duckdb_extension_repositories duckdb_extensions duckdb_external_file_cache
    duckdb_external_resource_types duckdb_external_resources duckdb_functions duckdb_grammar_extensions
    duckdb_indexes duckdb_log_contexts duckdb_logs duckdb_logs_parsed duckdb_memory duckdb_optimizers
    duckdb_prepared_statements duckdb_profiling_settings duckdb_schemas duckdb_secret_type_parameters
    duckdb_secret_types duckdb_secrets duckdb_sequences duckdb_settings duckdb_table_sample duckdb_tables
    duckdb_temporary_files duckdb_triggers duckdb_types duckdb_variables duckdb_views enable_logging
    enable_profiling force_checkpoint glob histogram histogram_values json_execute_serialized_sql
    pandas_scan parquet_bloom_probe parquet_file_metadata parquet_full_metadata parquet_kv_metadata
    parquet_metadata parquet_scan parquet_schema pragma_collations pragma_database_size
    pragma_metadata_info pragma_platform pragma_show pragma_storage_info pragma_table_info
    pragma_user_agent python_arrow_scan python_map_function query query_table read_blob read_csv
    read_csv_auto read_duckdb read_json read_json_auto read_json_objects read_json_objects_auto
    read_ndjson read_ndjson_auto read_ndjson_objects read_parquet read_single_csv_file
    read_single_json_file read_single_parquet_file read_text register_external_resource
    register_external_resource_type seq_scan sniff_csv test_vector_types truncate_duckdb_logs which_secret
    """.split()
)
REFUSED_PREFIXES = ("__internal_", "collate_", "icu_collate_")


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


@pytest.fixture(scope="module")
def gate(connection: duckdb.DuckDBPyConnection) -> StatementGate:
    return StatementGate(connection.cursor())


def known(connection: duckdb.DuckDBPyConnection, *kinds: str) -> set[str]:
    rows = connection.execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE list_contains($1, function_type)",
        [list(kinds)],
    ).fetchall()
    return {str(name) for (name,) in rows}


def test_every_function_has_been_looked_at(connection: duckdb.DuckDBPyConnection) -> None:
    found = {
        name
        for name in known(connection, "scalar", "aggregate", "macro", "window")
        if not name.startswith(REFUSED_PREFIXES)
    }
    assert found - FUNCTIONS == REFUSED_VALUES
    assert FUNCTIONS - found == GRAMMAR_FUNCTIONS
    tables = known(connection, "table", "table_macro")
    assert tables - TABLE_FUNCTIONS == REFUSED_TABLES
    assert tables >= TABLE_FUNCTIONS


def test_there_is_no_kind_of_function_that_nobody_looked_at(connection: duckdb.DuckDBPyConnection) -> None:
    kinds = connection.execute("SELECT DISTINCT function_type FROM duckdb_functions()").fetchall()
    looked_at = {"scalar", "aggregate", "macro", "window", "table", "table_macro"}
    assert {str(kind) for (kind,) in kinds} - looked_at == {"pragma"}


def test_no_word_of_the_grammar_is_a_refused_function() -> None:
    assert not _BEFORE_BRACKET & (REFUSED_VALUES | REFUSED_TABLES)


def test_names_are_compared_without_case(gate: StatementGate) -> None:
    gate.analyse("SELECT LoWeR('A'), \"UPPER\"('b')")
    with pytest.raises(StatementForbidden, match="the function read_text is not allowed"):
        gate.analyse("SELECT \"ReAd_TeXt\"('x')")


@pytest.mark.parametrize(
    "expression",
    [
        "1 + -2 * 3 / 4 // 5 % 6 ** 7 ^ 8",
        "a || b LIKE 'x%' ESCAPE '$' AND a NOT ILIKE b OR a SIMILAR TO b AND a ~ b AND a !~ b AND a GLOB b",
        "a <=> b, a <-> b, a && b, a @> b, a <@ b, a ^@ b, a -> 'x', a ->> 'x', @a, ~1, 1 & 2 | 3 << 4, 5!",
        "a = b, a == b, a <> b, a != b, a < b, a IS DISTINCT FROM b, a BETWEEN 1 AND 2, a IN (1, 2), NOT a",
        "coalesce(a, b), ifnull(a, b), nullif(a, b), if(a, b, c), CASE a WHEN 1 THEN 2 ELSE 3 END, TRY(a)",
        "current_date, current_timestamp, current_time, localtime, localtimestamp, now(), today()",
        "current_user, user, session_user, current_role, current_catalog, current_schema, current_schema()",
        "INTERVAL 3 DAY, DATE '2020-01-01', a AT TIME ZONE 'UTC', extract(year FROM a)",
        "substring(a FROM 1 FOR 2), position('x' IN a), overlay(a PLACING b FROM 1), trim(BOTH 'x' FROM a)",
        "[1, 2][1:2], [x + 1 FOR x IN a IF x > 0], list_transform(a, lambda x: x + 1), unnest(a), a[1]",
        "{'a': 1}.a, MAP {'a': 1}['a'], row(1, 2), (1, 2), struct_pack(a := 1), a.b.c, array(SELECT 1)",
        "a::INT, CAST(a AS DECIMAL(10, 2)), TRY_CAST(a AS STRUCT(x INT)), '{}'::JSON, a COLLATE nocase",
        "sum(a) FILTER (WHERE b) OVER (PARTITION BY c ORDER BY d ROWS 1 PRECEDING), row_number() OVER w",
        "string_agg(DISTINCT a, ',' ORDER BY b), percentile_cont(0.5) WITHIN GROUP (ORDER BY a)",
        "'a'.upper().lower(), a.list_sort(), COLUMNS('x.*'), COLUMNS(lambda c: c LIKE 'a%'), * EXCLUDE (a)",
        "#1, $1, ?",
    ],
)
def test_the_whole_language_of_expressions_passes(expression: str, gate: StatementGate) -> None:
    window = " WINDOW w AS (ORDER BY 1)" if "OVER w" in expression else ""
    parts = expression.split(", $", maxsplit=1)[0] if "?" in expression else expression
    gate.analyse(f"SELECT {parts} FROM t{window}")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT read_text('x')",
        "SELECT 'x'.read_text()",
        "SELECT system.main.read_text('x')",
        "SELECT main.\"read_text\"('x')",
        "SELECT list_transform(['x'], lambda p: read_text(p))",
        "SELECT [getvariable(x) FOR x IN ['a']]",
        "SELECT COLUMNS(lambda c: c = getenv('HOME')) FROM t",
        "SELECT * REPLACE (getvariable('x') AS a) FROM t",
        "SELECT sum(a) FILTER (WHERE nextval('s') > 0) FROM t",
        "SELECT sum(a) OVER (ORDER BY current_setting('x')) FROM t",
        "SELECT stats(a) OVER () FROM t",
        "SELECT 1 FROM t ORDER BY current_setting('x')",
        "SELECT 1 FROM t LIMIT (SELECT nextval('s'))",
        "SELECT 1 FROM t GROUP BY ROLLUP (write_log('x'))",
        "SELECT 1 FROM t QUALIFY getvariable('x')",
        "SELECT DISTINCT ON (getvariable('x')) a FROM t",
        "FROM t AT (VERSION => getvariable('x'))",
        "FROM t JOIN s ON getvariable('x')",
        "FROM t PIVOT (sum(getvariable('x')) FOR a IN (1))",
        "PIVOT t ON getvariable(a) USING sum(a)",
        "PIVOT t ON a USING sum(getvariable('x'))",
        "FROM (VALUES (getvariable('x'))) t(x)",
        "FROM range(getvariable('x'))",
        "FROM read_csv('x')",
        "FROM system.main.read_csv('x')",
        "FROM READ_PARQUET(['a', 'b'], union_by_name = true)",
        "FROM t, LATERAL (FROM read_text(t.a))",
        "FROM query('SELECT 1')",
        "FROM query_table('t')",
        "FROM histogram(t, a)",
        "FROM histogram_values('x.parquet', a)",
        "FROM json_execute_serialized_sql('{}')",
        "SELECT json_serialize_plan('SELECT 1')",
        "FROM duckdb_tables()",
        "FROM duckdb_variables()",
        "FROM pragma_storage_info('t')",
        "SELECT pg_get_viewdef(1)",
        "SELECT current_query()",
        "SELECT stats(a) FROM t",
        "SELECT finalize('x')",
        "SELECT sleep_ms(1000)",
        "WITH x AS (SELECT read_text('a')) SELECT 1",
        "SELECT (SELECT getvariable('x'))",
        "SELECT 1 UNION ALL SELECT getvariable('x')",
        "EXPLAIN SELECT getvariable('x')",
        "EXPLAIN ANALYZE SELECT write_log('x')",
        "DESCRIBE SELECT getvariable('x')",
        "SUMMARIZE FROM read_csv('x')",
        "CREATE TEMP VIEW v AS SELECT getvariable('x')",
        "CREATE TEMP TABLE v AS FROM read_csv('x')",
        "CREATE TEMP TABLE v (a INT DEFAULT nextval('s'))",
        "CREATE TEMP TABLE v (a INT CHECK (getvariable('x')))",
        "CREATE TEMP TABLE v (a INT, b INT GENERATED ALWAYS AS (getvariable('x')))",
        "INSERT INTO v SELECT getvariable('x')",
        "INSERT INTO v VALUES (getvariable('x')) RETURNING a",
        "INSERT INTO v VALUES (1) RETURNING getvariable('x')",
        "INSERT INTO v VALUES (1) ON CONFLICT DO UPDATE SET a = getvariable('x')",
        "UPDATE v SET a = getvariable('x')",
        "DELETE FROM v WHERE getvariable('x')",
        "DELETE FROM v USING read_csv('x')",
        "MERGE INTO v USING read_csv('x') s ON true WHEN MATCHED THEN DELETE",
        "MERGE INTO v USING s ON getvariable('x') WHEN MATCHED THEN DELETE",
        "MERGE INTO v USING s ON true WHEN MATCHED AND getvariable('x') THEN DELETE",
        "MERGE INTO v USING s ON true WHEN MATCHED THEN UPDATE SET a = 'x'.getvariable()",
        "MERGE INTO v USING s ON true WHEN MATCHED THEN DELETE RETURNING getvariable('x')",
    ],
)
def test_a_refused_function_is_refused_wherever_it_stands(sql: str, gate: StatementGate) -> None:
    with pytest.raises(StatementForbidden, match="is not allowed"):
        gate.analyse(sql)


@pytest.mark.parametrize(
    "sql",
    """
    COPY t TO 'x'
    COPY t FROM 'x'
    COPY (SELECT 1) TO 'x'
    COPY FROM DATABASE a TO b
    WITH x AS (COPY (SELECT 1) TO 'x') FROM x
    SELECT * FROM (WITH x AS (COPY t TO 'x') FROM x)
    WITH x AS (INSERT INTO t VALUES (1) RETURNING *) FROM x
    WITH x AS (DELETE FROM t RETURNING *) FROM x
    WITH x AS (UPDATE t SET a = 1 RETURNING *) INSERT INTO v FROM x
    EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO 'x') FROM x
    CREATE TEMP TABLE y AS WITH x AS (COPY t TO 'x') FROM x
    EXPORT DATABASE 'x'
    IMPORT DATABASE 'x'
    ATTACH ':memory:' AS m
    ATTACH 'x.duckdb'
    DETACH lake
    INSTALL httpfs
    LOAD httpfs
    LOAD 'x'
    UPDATE EXTENSIONS
    PRAGMA database_list
    PRAGMA enable_profiling
    CALL pragma_version()
    CALL enable_logging()
    CHECKPOINT
    FORCE CHECKPOINT
    SET VARIABLE x = 1
    RESET VARIABLE x
    SET GLOBAL TimeZone = 'UTC'
    PREPARE p AS SELECT 1
    EXECUTE p
    FROM "~lakehouse".main.tables
    FROM "~session".main.x
    FROM lake."~x".t
    SELECT "~lakehouse".main.f(1)
    SELECT 1::"~lakehouse".main.x
    FROM "~lakehouse".main.range(1)
    """.strip().splitlines(),
)
def test_forbidden_statements_are_forbidden(sql: str, gate: StatementGate) -> None:
    with pytest.raises(StatementForbidden):
        gate.analyse(sql.strip())


@pytest.mark.parametrize(
    "sql",
    """
    CREATE SECRET s (TYPE s3)
    CREATE PERSISTENT SECRET s (TYPE s3)
    DROP SECRET s
    CREATE MACRO f(a) AS a
    CREATE TEMP MACRO f() AS TABLE FROM read_csv('x')
    CREATE FUNCTION f(a) AS a
    CREATE SEQUENCE s
    CREATE TEMP SEQUENCE s
    CREATE TYPE y AS ENUM ('a')
    CREATE INDEX i ON t (a)
    CREATE TABLE t (a INT DEFAULT (SELECT 1))
    CREATE TABLE t (a INT DEFAULT getenv('HOME'))
    CREATE TABLE t AS FROM read_text('x')
    CREATE TABLE t (a INT) WITH (x = 1)
    CREATE OR REPLACE TABLE t AS SELECT getvariable('x')
    CREATE TABLE t PARTITIONED BY (read_text('x')) AS SELECT 1
    CREATE TABLE t (a INT) SORTED BY (a + 1)
    ALTER TABLE t ADD COLUMN b INT DEFAULT getenv('HOME')
    ALTER TABLE t ALTER b SET DEFAULT (SELECT 1)
    ALTER TABLE t ALTER b TYPE INT USING read_text('x')::INT
    ALTER TABLE t SET PARTITIONED BY (getenv('a'))
    ALTER TABLE t ADD CHECK (a > 1)
    ALTER SEQUENCE s OWNED BY t
    VACUUM
    ANALYZE
    COMMENT ON SCHEMA s IS 'x'
    COMMENT ON FUNCTION f IS 'x'
    DEALLOCATE p
    DROP SEQUENCE s
    DROP TYPE y
    DROP TABLE s, t
    SHOW TABLES FROM nyc
    SHOW VARIABLES
    SELECT * FROM (SHOW ALL TABLES)
    FROM (DESCRIBE)
    FROM information_schema.views
    EXPLAIN INSERT INTO t VALUES (1)
    EXPLAIN CREATE TEMP TABLE x AS SELECT 1
    CREATE TEMP TABLE x (a INT DEFAULT (SELECT 1))
    CREATE TEMP TABLE x (a INT REFERENCES t (a))
    """.strip().splitlines(),
)
def test_what_is_not_offered_is_refused(sql: str, gate: StatementGate) -> None:
    with pytest.raises((NotSupported, StatementForbidden)):
        gate.analyse(sql.strip())


@pytest.mark.parametrize(
    "sql", ["", ";", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; COPY t TO 'x'", "SELECT 1 /*", "SELEC 1"]
)
def test_anything_but_one_statement_is_a_syntax_error(sql: str, gate: StatementGate) -> None:
    with pytest.raises(SqlSyntaxError):
        gate.analyse(sql)


@pytest.mark.parametrize(
    "text",
    [
        "1) FROM t --",
        "1), (2",
        "1) AS x, (2",
        "1) UNION ALL SELECT (2",
        "1; SELECT 2",
        "a FROM t WHERE (1",
        "1) ORDER BY (2",
        "getvariable('x')",
        "a IN (FROM read_csv('x'))",
        "'x'.read_text() = 'y'",
        "",
    ],
)
def test_an_expression_cannot_end_the_statement_around_it(text: str, gate: StatementGate) -> None:
    with pytest.raises(LakehouseError):
        gate.check_expression(text)


@pytest.mark.parametrize("text", ["a = 1 -- why", "a IN (SELECT b FROM s)", "(a) OR (b)", "a /* ) */ > 'x)'"])
def test_an_expression_passes(text: str, gate: StatementGate) -> None:
    gate.check_expression(text)
