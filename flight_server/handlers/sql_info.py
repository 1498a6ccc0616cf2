"""GetSqlInfo: what this server is and what its SQL can do, one value for every code of the protocol.

Clients cast values without looking, so each code must be in the union child that they expect. Where the
text of the protocol and its clients differ (503, 505, 507, 528, 562), the clients decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa

from flight_server import __version__
from flight_server.context import CallContext
from flight_server.dispatch import QueryHandler
from flight_server.metadata_query import MetadataQuery
from flight_server.protocol.commands import GetSqlInfo
from flight_server.protocol.result_schemas import GET_SQL_INFO, SQL_INFO_VALUE
from lakehouse.config import Settings
from lakehouse.engine.vocabulary import Vocabulary, read_vocabulary
from lakehouse.runtime import Lakehouse

SERVER_NAME = "Lakehouse Flight SQL"
_STRING, _BOOL, _BIGINT, _BITMASK, _STRING_LIST, _CONVERSIONS = range(6)
Value = tuple[int, Any]
"""The union child a value belongs to, and the value."""

_INT32_MAX = 2**31 - 1
_TRANSACTIONS = 1
_CASE_INSENSITIVE = 1
_NULLS_AT_END = 3
_READ_COMMITTED, _REPEATABLE_READ = 2, 3
_FORWARD_ONLY = 1 << 1
_READ_ONLY = 1 << 1
_NO_LIMIT = 0

# Bulk ingestion and its transactions joined the protocol later than the rest. JDBC drivers before 17 ask for
# everything and fail on numbers they do not know, so these two are told only where they are asked for.
_LATER_CODES = frozenset({10, 11})

# Types in the numbering of SqlSupportsConvert.
_NUMBERS = (0, 5, 6, 7, 12, 13, 14, 17)
_BOOLEAN = (2,)
_STRINGS = (3, 11, 19)
_BINARIES = (1, 10, 18)
_DATES, _TIMES, _TIMESTAMPS, _INTERVALS = (4,), (15,), (16,), (8, 9)
_EVERYTHING = tuple(range(20))
_CASTS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    (_NUMBERS, (*_NUMBERS, *_BOOLEAN, *_STRINGS)),
    (_BOOLEAN, (*_NUMBERS, *_BOOLEAN, *_STRINGS)),
    (_STRINGS, _EVERYTHING),
    (_BINARIES, (*_BINARIES, *_STRINGS)),
    (_DATES, (*_DATES, *_TIMESTAMPS, *_STRINGS)),
    (_TIMES, (*_TIMES, *_STRINGS)),
    (_TIMESTAMPS, (*_TIMESTAMPS, *_DATES, *_TIMES, *_STRINGS)),
    (_INTERVALS, (*_INTERVALS, *_STRINGS)),
)


def _values(child: int, values: Mapping[int, Any]) -> dict[int, Value]:
    return {code: (child, value) for code, value in values.items()}


def _bits(*places: int) -> int:
    return sum(1 << place for place in places)


def conversions() -> list[tuple[int, list[int]]]:
    """Which types can be cast to which, in the numbering of SqlSupportsConvert."""
    return sorted((source, sorted(targets)) for sources, targets in _CASTS for source in sources)


_STRING_VALUES = {
    0: SERVER_NAME,
    1: __version__,
    2: pa.__version__,
    6: "",  # Substrait versions
    7: "",
    504: '"',  # identifier quote
    513: "\\",  # escape in search patterns
    514: "$",  # further characters of unquoted names
    529: "schema",
    530: "procedure",
    531: "catalog",
}
_BOOL_VALUES = {
    3: False,  # read-only
    4: True,  # SQL
    5: False,  # Substrait
    9: True,  # cancel
    10: True,  # bulk ingestion
    11: True,  # ingestion in transactions
    500: False,  # create and drop catalogs
    501: True,  # … schemas
    502: True,  # … tables
    506: True,  # all tables are selectable
    515: True,  # column aliases
    516: True,  # NULL + NULL is NULL
    518: True,  # table aliases
    519: False,  # … that must differ from the names of tables
    520: True,  # expressions in ORDER BY
    521: True,  # ORDER BY what is not selected
    523: True,  # LIKE … ESCAPE
    524: True,  # NOT NULL columns
    527: False,  # integrity enhancement: keys are declared, not enforced
    532: True,  # catalog at the start of a name
    536: False,  # SELECT FOR UPDATE
    537: False,  # stored procedures
    539: True,  # correlated subqueries
    556: False,  # largest row includes blobs
    # JDBC does not end transactions: its commit and rollback do nothing, so it must not offer them.
    563: False,  # transactions
    565: False,  # DDL commits
    566: False,  # DDL ignored in transactions
    572: True,  # batch updates
    573: False,  # savepoints
    574: False,  # named parameters of procedures
    575: False,  # locators update a copy
    576: False,  # functions in call syntax
}
_BITMASK_VALUES = {
    8: _TRANSACTIONS,
    522: _bits(0, 1),  # GROUP BY: unrelated, beyond SELECT
    525: _bits(0, 1),  # grammar: minimum, core
    526: _bits(0),  # SQL-92: entry
    528: _bits(1, 2),  # outer joins: limited, full
    533: _bits(),  # schemas in procedure calls, index definitions, privilege definitions
    534: _bits(),  # catalogs in the same
    535: _bits(),  # positioned delete, update
    538: _bits(0, 1, 2, 3),  # subqueries: comparisons, EXISTS, IN, quantified
    540: _bits(0, 1),  # UNION, UNION ALL
    564: _bits(_READ_COMMITTED, _REPEATABLE_READ),
    567: _FORWARD_ONLY,
    568: _READ_ONLY,
    569: _READ_ONLY,
    570: _bits(),
    571: _bits(),
}
_BIGINT_VALUES = {
    503: _CASE_INSENSITIVE,  # unquoted identifiers
    505: _CASE_INSENSITIVE,  # quoted identifiers
    507: _NULLS_AT_END,
    **dict.fromkeys((*range(541, 556), *range(557, 562)), _NO_LIMIT),
    # The weakest that a transaction gives. 2 is "read committed" both for the protocol and for JDBC.
    562: _READ_COMMITTED,
}


def sql_info(settings: Settings, words: Vocabulary) -> dict[int, Value]:
    """The value of every code, in order.

    Args:
        settings: What bounds statements and sessions.
        words: What the SQL dialect offers.
    """
    found = {
        **_values(_STRING, _STRING_VALUES),
        **_values(_BOOL, _BOOL_VALUES),
        **_values(_BITMASK, _BITMASK_VALUES),
        **_values(_BIGINT, _BIGINT_VALUES),
        100: (_BITMASK, _milliseconds(settings.limits.statement_timeout_seconds)),
        101: (_BITMASK, _milliseconds(settings.session.idle_seconds)),
        508: (_STRING_LIST, words.keywords),
        509: (_STRING_LIST, words.numeric),
        510: (_STRING_LIST, words.string),
        511: (_STRING_LIST, words.system),
        512: (_STRING_LIST, words.datetime),
        517: (_CONVERSIONS, conversions()),
        549: (_BIGINT, settings.session.max_sessions),
        558: (_BIGINT, settings.session.max_prepared_per_session),
    }
    return dict(sorted(found.items()))


def _milliseconds(seconds: float) -> int:
    return min(round(seconds * 1000), _INT32_MAX)


def info_table(values: Iterable[tuple[int, Value]]) -> pa.Table:
    """Codes with their values, each in its child of the dense union."""
    children: list[list[Any]] = [[] for _ in range(SQL_INFO_VALUE.num_fields)]
    codes, kinds, offsets = [], [], []
    for code, (child, value) in values:
        codes.append(code)
        kinds.append(child)
        offsets.append(len(children[child]))
        children[child].append(value)
    union = pa.UnionArray.from_buffers(
        SQL_INFO_VALUE,
        len(codes),
        [None, _buffer(kinds, pa.int8()), _buffer(offsets, pa.int32())],
        children=[pa.array(found, SQL_INFO_VALUE.field(i).type) for i, found in enumerate(children)],
    )
    return pa.table([pa.array(codes, pa.uint32()), union], schema=GET_SQL_INFO)


def _buffer(numbers: Sequence[int], kind: pa.DataType) -> pa.Buffer:
    return pa.array(numbers, kind).buffers()[1]


class SqlInfoSource:
    """Answers GetSqlInfo; what the SQL dialect offers is read once per lakehouse, when first asked for."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Lakehouse, dict[int, Value]] = WeakKeyDictionary()

    def table(self, ctx: CallContext, command: GetSqlInfo) -> pa.Table:
        """The codes asked for, in that order, those unknown left out.

        Where none is named: all of them, except those that old clients stumble over.
        """
        known = self._values(ctx.lakehouse)
        wanted = dict.fromkeys(command.info or (code for code in known if code not in _LATER_CODES))
        return info_table((code, known[code]) for code in wanted if code in known)

    def _values(self, lakehouse: Lakehouse) -> dict[int, Value]:
        found = self._known.get(lakehouse)
        if found is None:
            cursor = lakehouse.engine.database.private_cursor()
            try:
                words = read_vocabulary(cursor)
            finally:
                cursor.close()
            found = self._known[lakehouse] = sql_info(lakehouse.settings, words)
        return found


def query_handlers() -> dict[type, QueryHandler]:
    """Who answers GetFlightInfo, GetSchema and DoGet."""
    return {GetSqlInfo: MetadataQuery(lambda _: GET_SQL_INFO, SqlInfoSource().table)}
