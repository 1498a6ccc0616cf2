"""What SQLAlchemy's dialect suite may ask of sqlalchemy-adbc on this server, and what it must leave out."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CheckConstraint, CreateIndex, DropIndex, UniqueConstraint
from sqlalchemy.testing import exclusions, provision
from sqlalchemy.testing.requirements import SuiteRequirements

# Iceberg tables keep no such constraints; dialects of their engines leave them out of CREATE TABLE.
_NO_STATEMENT = "SELECT 1"


@compiles(CheckConstraint, "flightsql")
@compiles(UniqueConstraint, "flightsql")
def _left_out(*_: Any, **__: Any) -> None:
    return None


@compiles(CreateIndex, "flightsql")
@compiles(DropIndex, "flightsql")
def _no_statement(*_: Any, **__: Any) -> str:
    return _NO_STATEMENT


@provision.temp_table_keyword_args.for_db("adbc")
def _temporary(*_: Any) -> dict[str, Any]:
    return {"prefixes": ["TEMPORARY"]}


@provision.delete_from_all_tables.for_db("adbc")
def _delete_from_all_tables(connection: Any, _: Any, metadata: Any) -> None:
    # The suite's own asks for the names of tables first, which this dialect does not know.
    for table in metadata.tables.values():
        connection.execute(table.delete())


# Not the window_range ones: they count on an order that they do not ask for.
_CAN = """
    boolean_col_expressions create_table_as ctes date_historic datetime_historic datetime_literals
    delete_from except_ infinity_floats intersect mod_operator_as_percent_sign nullsordering
    order_by_label_with_expression percent_schema_names precision_numerics_enotation_small
    precision_numerics_many_significant_digits schema_create_delete server_defaults supports_bitwise_and
    supports_bitwise_not supports_bitwise_or supports_bitwise_shift table_ddl_if_exists
    table_value_constructor timestamp_microseconds tuple_in unicode_ddl update_from uuid_data_type
    window_functions
"""
# No numbers drawn by themselves, no indexes, no unique values, no cascades.
_CANNOT = """
    autoincrement_insert autoincrement_without_sequence duplicate_key_raises_integrity_error
    implements_get_lastrowid index_reflection indexes_with_ascdesc on_update_cascade recursive_fk_cascade
    reflect_indexes_with_ascdesc temp_table_reflection unique_constraint_reflection empty_inserts
"""


def _fixed(predicate: Any) -> property:
    return property(lambda _: predicate())


Requirements = type(
    "Requirements",
    (SuiteRequirements,),
    {name: _fixed(exclusions.open) for name in _CAN.split()}
    | {name: _fixed(exclusions.closed) for name in _CANNOT.split()},
)
