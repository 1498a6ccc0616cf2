"""Schemas of the metadata results, in the order of the reference implementations."""

from __future__ import annotations

import pyarrow as pa


def _field(name: str, kind: pa.DataType, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


_UTF8 = pa.string()

GET_CATALOGS = pa.schema([_field("catalog_name", _UTF8)])
GET_DB_SCHEMAS = pa.schema([_field("catalog_name", _UTF8, nullable=True), _field("db_schema_name", _UTF8)])
GET_TABLES = pa.schema(
    [
        _field("catalog_name", _UTF8, nullable=True),
        _field("db_schema_name", _UTF8, nullable=True),
        _field("table_name", _UTF8),
        _field("table_type", _UTF8),
    ]
)
GET_TABLES_WITH_SCHEMA = GET_TABLES.append(_field("table_schema", pa.binary()))
GET_TABLE_TYPES = pa.schema([_field("table_type", _UTF8)])
GET_PRIMARY_KEYS = pa.schema(
    [
        _field("catalog_name", _UTF8, nullable=True),
        _field("db_schema_name", _UTF8, nullable=True),
        _field("table_name", _UTF8),
        _field("column_name", _UTF8),
        _field("key_sequence", pa.int32()),
        _field("key_name", _UTF8, nullable=True),
    ]
)
GET_KEYS = pa.schema(
    [
        _field("pk_catalog_name", _UTF8, nullable=True),
        _field("pk_db_schema_name", _UTF8, nullable=True),
        _field("pk_table_name", _UTF8),
        _field("pk_column_name", _UTF8),
        _field("fk_catalog_name", _UTF8, nullable=True),
        _field("fk_db_schema_name", _UTF8, nullable=True),
        _field("fk_table_name", _UTF8),
        _field("fk_column_name", _UTF8),
        _field("key_sequence", pa.int32()),
        _field("fk_key_name", _UTF8, nullable=True),
        _field("pk_key_name", _UTF8, nullable=True),
        _field("update_rule", pa.uint8()),
        _field("delete_rule", pa.uint8()),
    ]
)
SQL_INFO_VALUE = pa.dense_union(
    [
        _field("string_value", _UTF8),
        _field("bool_value", pa.bool_()),
        _field("bigint_value", pa.int64()),
        _field("int32_bitmask", pa.int32()),
        _field("string_list", pa.list_(pa.field("item", _UTF8))),
        _field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.field("item", pa.int32())))),
    ]
)
GET_SQL_INFO = pa.schema([_field("info_name", pa.uint32()), _field("value", SQL_INFO_VALUE)])
GET_XDBC_TYPE_INFO = pa.schema(
    [
        _field("type_name", _UTF8),
        _field("data_type", pa.int32()),
        _field("column_size", pa.int32(), nullable=True),
        _field("literal_prefix", _UTF8, nullable=True),
        _field("literal_suffix", _UTF8, nullable=True),
        _field("create_params", pa.list_(_field("item", _UTF8)), nullable=True),
        _field("nullable", pa.int32()),
        _field("case_sensitive", pa.bool_()),
        _field("searchable", pa.int32()),
        _field("unsigned_attribute", pa.bool_(), nullable=True),
        _field("fixed_prec_scale", pa.bool_()),
        _field("auto_increment", pa.bool_(), nullable=True),
        _field("local_type_name", _UTF8, nullable=True),
        _field("minimum_scale", pa.int32(), nullable=True),
        _field("maximum_scale", pa.int32(), nullable=True),
        _field("sql_data_type", pa.int32()),
        _field("datetime_subcode", pa.int32(), nullable=True),
        _field("num_prec_radix", pa.int32(), nullable=True),
        _field("interval_precision", pa.int32(), nullable=True),
    ]
)
