"""GetXdbcTypeInfo: the types of SQL columns, as ODBC and JDBC number them.

Nested types (LIST, STRUCT, MAP, UNION) have no XDBC number and are left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from flight_server.context import CallContext
from flight_server.dispatch import QueryHandler
from flight_server.metadata_query import Row, of_rows
from flight_server.protocol.commands import GetXdbcTypeInfo
from flight_server.protocol.result_schemas import GET_XDBC_TYPE_INFO

_BIT, _TINYINT, _SMALLINT, _INTEGER, _BIGINT = -7, -6, 5, 4, -5
_NUMERIC, _DECIMAL, _REAL, _DOUBLE = 2, 3, 7, 8
_VARCHAR, _LONGVARBINARY = 12, -4
_DATETIME, _INTERVAL, _DATE, _TIME, _TIMESTAMP = 9, 10, 91, 92, 93
_SUBCODE_DATE, _SUBCODE_TIME, _SUBCODE_TIMESTAMP, _SUBCODE_TIMESTAMP_TZ = 1, 2, 3, 5
_NULLABLE = 1
_SEARCHABLE_BASIC, _SEARCHABLE_FULL = 2, 3


@dataclass(frozen=True, slots=True)
class _Type:
    """One row of the result, with what holds for most types as defaults."""

    type_name: str
    data_type: int
    column_size: int | None
    literal_prefix: str | None = None
    literal_suffix: str | None = None
    create_params: tuple[str, ...] | None = None
    nullable: int = _NULLABLE
    case_sensitive: bool = False
    searchable: int = _SEARCHABLE_BASIC
    unsigned_attribute: bool | None = None
    fixed_prec_scale: bool = False
    auto_increment: bool | None = None
    local_type_name: str | None = None
    minimum_scale: int | None = None
    maximum_scale: int | None = None
    sql_data_type: int | None = None
    datetime_subcode: int | None = None
    num_prec_radix: int | None = None
    interval_precision: int | None = None

    def row(self) -> Row:
        """The row, named and numbered in full."""
        names = {"local_type_name": self.type_name, "sql_data_type": self.sql_data_type or self.data_type}
        return {**asdict(self), **names}


def _integer(name: str, data_type: int, digits: int, *, unsigned: bool = False) -> _Type:
    return _Type(
        name,
        data_type,
        digits,
        unsigned_attribute=unsigned,
        auto_increment=False,
        minimum_scale=0,
        maximum_scale=0,
        num_prec_radix=10,
    )


def _floating(name: str, data_type: int, bits: int) -> _Type:
    return _Type(name, data_type, bits, unsigned_attribute=False, auto_increment=False, num_prec_radix=2)


def _moment(name: str, data_type: int, size: int, subcode: int, digits: int | None, prefix: str) -> _Type:
    return _Type(
        name,
        data_type,
        size,
        prefix,
        "'",
        minimum_scale=None if digits is None else 0,
        maximum_scale=digits,
        sql_data_type=_DATETIME,
        datetime_subcode=subcode,
    )


_TYPES = (
    _integer("TINYINT", _TINYINT, 3),
    _integer("SMALLINT", _SMALLINT, 5),
    _integer("INTEGER", _INTEGER, 10),
    _integer("BIGINT", _BIGINT, 19),
    _integer("HUGEINT", _NUMERIC, 38),
    _integer("UTINYINT", _SMALLINT, 3, unsigned=True),
    _integer("USMALLINT", _INTEGER, 5, unsigned=True),
    _integer("UINTEGER", _BIGINT, 10, unsigned=True),
    _integer("UBIGINT", _NUMERIC, 20, unsigned=True),
    _floating("FLOAT", _REAL, 24),
    _floating("DOUBLE", _DOUBLE, 53),
    _Type(
        "DECIMAL",
        _DECIMAL,
        38,
        create_params=("precision", "scale"),
        unsigned_attribute=False,
        auto_increment=False,
        minimum_scale=0,
        maximum_scale=38,
        num_prec_radix=10,
    ),
    _Type("BOOLEAN", _BIT, 1),
    _Type(
        "VARCHAR",
        _VARCHAR,
        None,
        "'",
        "'",
        create_params=("length",),
        case_sensitive=True,
        searchable=_SEARCHABLE_FULL,
    ),
    _Type("JSON", _VARCHAR, None, "'", "'", case_sensitive=True, searchable=_SEARCHABLE_FULL),
    _Type("UUID", _VARCHAR, 36, "'", "'"),
    _Type("BLOB", _LONGVARBINARY, None, "'", "'::BLOB"),
    _moment("DATE", _DATE, 10, _SUBCODE_DATE, None, "DATE '"),
    _moment("TIME", _TIME, 15, _SUBCODE_TIME, 6, "TIME '"),
    _moment("TIMESTAMP", _TIMESTAMP, 26, _SUBCODE_TIMESTAMP, 6, "TIMESTAMP '"),
    _moment("TIMESTAMP WITH TIME ZONE", _TIMESTAMP, 32, _SUBCODE_TIMESTAMP_TZ, 6, "TIMESTAMPTZ '"),
    _Type("INTERVAL", _INTERVAL, None, "INTERVAL '", "'"),
)
_ROWS = sorted((kind.row() for kind in _TYPES), key=lambda row: (row["data_type"], row["type_name"]))


def type_info(ctx: CallContext, command: GetXdbcTypeInfo) -> list[Row]:
    """Every type, or those of one number."""
    wanted = command.data_type
    return [row for row in _ROWS if wanted is None or row["data_type"] == wanted]


def query_handlers() -> dict[type, QueryHandler]:
    """Who answers GetFlightInfo, GetSchema and DoGet."""
    return {GetXdbcTypeInfo: of_rows(GET_XDBC_TYPE_INFO, type_info)}
