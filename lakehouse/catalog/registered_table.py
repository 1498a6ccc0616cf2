"""A table made of Parquet files that know nothing of Iceberg: read by name, and never written.

What the rest of the program asks of a table stands in Iceberg metadata that is made here, in memory: one
schema, and one snapshot that has all files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from uuid import UUID

import pyarrow as pa
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestEntry, ManifestEntryStatus
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata, TableMetadataV2
from pyiceberg.table.snapshots import Operation, Snapshot, SnapshotLogEntry, Summary
from pyiceberg.table.sorting import SortOrder
from pyiceberg.typedef import Record
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from lakehouse.catalog import iceberg_types
from lakehouse.catalog.data_files import encoded
from lakehouse.catalog.file_statistics import FileStatistics, ManifestStatistics
from lakehouse.catalog.iceberg_types import duckdb_type
from lakehouse.catalog.names import fold
from lakehouse.catalog.parquet_footer import Footer
from lakehouse.catalog.table import DESCRIPTION_PROPERTY, Table
from lakehouse.errors import LakehouseError, NotSupported, SnapshotNotFound
from lakehouse.storage import Bucket, readable_key
from lakehouse.types import DataFileRef, TableName, quote

__all__ = [
    "NO_VALUE",
    "RegisteredColumn",
    "RegisteredTable",
    "columns_of",
    "registered_table",
    "result_schema",
]

_SIMPLE: dict[str, IcebergType] = {
    duckdb_type(kind): kind
    for kind in (
        BooleanType(),
        IntegerType(),
        LongType(),
        FloatType(),
        DoubleType(),
        DateType(),
        TimeType(),
        TimestampType(),
        TimestamptzType(),
        StringType(),
        BinaryType(),
        UUIDType(),
    )
}
_TOKEN = re.compile(r'"(?:[^"]|"")*"|\[\]|[(),]|[A-Z][A-Z0-9 ]*[A-Z0-9]|\d+|\s+')
# Above this many files, opening all of them to know their columns takes longer than it is worth.
_FEW_FILES = 256
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What stands for NULL in the directories that are called after the values of columns."""


@dataclass(frozen=True, slots=True)
class RegisteredColumn:
    """A column: its name, its type in DuckDB's words, and what it is.

    With ``in_path`` its values are not in the files but in the names of directories: ``name=value/``.
    """

    name: str
    type: str
    description: str = ""
    in_path: bool = False


@dataclass(frozen=True, eq=False)
class RegisteredTable(Table):
    """One version of a registered dataset.

    Args:
        path_columns: The columns whose values are in the names of directories.
    """

    path_columns: tuple[str, ...] = ()

    @property
    def files_differ(self) -> bool:
        """True."""
        return True

    def plain_columns(self) -> tuple[tuple[str, str], ...] | None:
        """Names and DuckDB types of the columns where opening all files to know them is worth it."""
        if self.path_columns or len(self.files()) > _FEW_FILES:
            return None
        return super().plain_columns()

    def read_schema_sql(self, schema_id: int | None = None) -> str:
        """The DuckDB literal for ``read_parquet(…, schema = …)``: by name, NULL where there is none."""
        fields = [f for f in self._schema(self.schema_id).fields if f.name not in self.path_columns]
        parts = []
        for each in fields:
            name, kind = (text.replace("'", "''") for text in (each.name, duckdb_type(each.field_type)))
            parts.append(f"'{name}': {{name: '{name}', type: '{kind}', default_value: NULL}}")
        return f"MAP {{{', '.join(parts)}}}"

    def selected(self, file_column: str) -> str | None:
        """The columns as SQL, where some are made from the path of the file; else None.

        Args:
            file_column: The column that has the path.
        """
        if not self.path_columns:
            return None
        fields = self._schema(self.schema_id).fields
        return ", ".join(
            path_column_sql(each.name, duckdb_type(each.field_type), file_column)
            if each.name in self.path_columns
            else quote(each.name)
            for each in fields
        )


def path_column_sql(name: str, kind: str, file_column: str) -> str:
    """SQL for a column whose values are in the paths of files, as ``readable_key`` writes them."""
    pattern = re.escape(readable_key(name)).replace("'", "''")
    # The last directory of that name is meant; those above the dataset are none of its own.
    text = f"regexp_extract({quote(file_column)}, '.*/{pattern}=([^/]*)/', 1)"
    unswapped = f"translate(url_decode({text}), '%!', '!%')"
    return f"CAST(nullif(url_decode({unswapped}), '{NO_VALUE}') AS {kind}) AS {quote(name)}"


class RegisteredFiles:
    """The files of one version of a registered dataset. Asked what ``SnapshotFiles`` is asked.

    Args:
        bucket: Where they are.
        snapshot_id: What the version is called.
        refs: The files.
        records: What is known of their columns; called when it is needed, and kept.
    """

    def __init__(
        self,
        bucket: Bucket,
        snapshot_id: int,
        refs: tuple[DataFileRef, ...],
        records: Callable[[], Sequence[DataFile]],
    ) -> None:
        self._bucket = bucket
        self.bucket_name = bucket.name
        self._snapshot_id = snapshot_id
        self._refs = refs
        self._records = records
        self._statistics: FileStatistics | None = None

    def files(self, table: str, metadata: TableMetadata, snapshot_id: int) -> tuple[DataFileRef, ...]:
        """All of them."""
        if snapshot_id != self._snapshot_id:
            raise SnapshotNotFound(f"table '{table}' has no snapshot {snapshot_id}")
        return self._refs

    def statistics(self, table: str, metadata: TableMetadata, snapshot_id: int) -> FileStatistics:
        """What is known of them."""
        if self._statistics is None:
            try:
                self._statistics = FileStatistics([ManifestStatistics(self._records())])
            except LakehouseError:
                # Whoever reads a file that is not what it was is told so; the others can be read.
                return FileStatistics([ManifestStatistics([_record(ref) for ref in self._refs])])
        return self._statistics

    def rows_left(self, files: Sequence[DataFileRef]) -> int:
        """How many rows they have."""
        return sum(file.rows for file in files)

    def metadata_paths(self, metadata: TableMetadata) -> tuple[str, ...]:
        """Nothing: there is no metadata in storage that a reader needs."""
        return ()

    def entries(self, metadata: TableMetadata, snapshot: Snapshot) -> Iterator[ManifestEntry]:
        """The files as a manifest would list them, without their bounds, for which they would be opened."""
        for record in map(_record, self._refs):
            entry = ManifestEntry.from_args(
                status=ManifestEntryStatus.EXISTING,
                snapshot_id=snapshot.snapshot_id,
                sequence_number=0,
                file_sequence_number=0,
                data_file=record,
            )
            yield entry

    def shown(self, uri: str) -> str:
        """What a client is told of where a file is."""
        return self._bucket.shown(uri)

    def held(self, paths: Iterable[str]) -> AbstractContextManager[None]:
        """For the length of a ``with``, the files can be read at these paths."""
        return self._bucket.held(paths)


def registered_table(
    name: TableName,
    dataset_id: str,
    columns: Sequence[RegisteredColumn],
    refs: Sequence[DataFileRef],
    version: str,
    bucket: Bucket,
    location: str,
    made_at: datetime,
    description: str,
    footers: Callable[[], Iterable[Footer]],
) -> RegisteredTable:
    """A registered dataset as a table.

    Args:
        name: What it is called.
        dataset_id: A UUID.
        columns: Its columns.
        refs: Its files.
        version: Differs where the files do.
        bucket: Where they are.
        location: What their keys begin with.
        made_at: Since when it has had these files.
        description: What it is, in words; may be empty.
        footers: Reads the footers of the files, in their order, when something has to be known of them;
            with the columns that are in paths.

    Raises:
        NotSupported: A column's type cannot be understood.
    """
    schema = _schema(columns)
    snapshot_id = _number(version) or 1
    metadata = _metadata(dataset_id, schema, refs, snapshot_id, bucket.uri_of(location.rstrip("/")), made_at)
    if description:
        metadata = metadata.model_copy(update={"properties": {DESCRIPTION_PROPERTY: description}})
    in_path = tuple(column.name for column in columns if column.in_path)

    def records() -> list[DataFile]:
        return [_record(ref, footer, schema) for ref, footer in zip(refs, footers(), strict=True)]

    files = RegisteredFiles(bucket, snapshot_id, tuple(refs), records)
    return RegisteredTable(name, metadata, files, path_columns=in_path)


def _metadata(
    dataset_id: str,
    schema: Schema,
    refs: Sequence[DataFileRef],
    snapshot_id: int,
    location: str,
    made_at: datetime,
) -> TableMetadata:
    moment_ms = int(made_at.timestamp() * 1000)
    summary = Summary(
        Operation.APPEND,
        **{
            "total-records": str(sum(ref.rows for ref in refs)),
            "total-files-size": str(sum(ref.size_bytes for ref in refs)),
            "total-data-files": str(len(refs)),
            "total-delete-files": "0",
        },
    )
    snapshot = Snapshot(
        snapshot_id=snapshot_id,
        timestamp_ms=moment_ms,
        manifest_list="",
        summary=summary,
        schema_id=schema.schema_id,
    )
    return TableMetadataV2(
        location=location,
        table_uuid=UUID(dataset_id),
        last_updated_ms=moment_ms,
        last_column_id=schema.highest_field_id,
        schemas=[schema],
        current_schema_id=schema.schema_id,
        partition_specs=[PartitionSpec()],
        last_partition_id=999,
        sort_orders=[SortOrder()],
        default_sort_order_id=0,
        snapshots=[snapshot],
        current_snapshot_id=snapshot_id,
        snapshot_log=[SnapshotLogEntry(snapshot_id=snapshot_id, timestamp_ms=moment_ms)],
    )


def columns_of(schema: pa.Schema) -> list[RegisteredColumn]:
    """The columns of a storable Arrow schema."""
    ids = count(1)
    fields = iceberg_types.iceberg_schema(schema, lambda: next(ids)).fields
    return [RegisteredColumn(each.name, duckdb_type(each.field_type)) for each in fields]


def result_schema(columns: Iterable[tuple[str, str]]) -> pa.Schema:
    """The Arrow schema that the SQL engine returns for columns, by name and type in DuckDB's words."""
    return iceberg_types.result_schema(_schema([RegisteredColumn(name, kind) for name, kind in columns]))


def iceberg_type(text: str, next_id: Callable[[], int]) -> IcebergType:
    """The type that ``duckdb_type`` wrote.

    Raises:
        NotSupported: It is none.
    """
    tokens: list[str] = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise NotSupported(f"a manifest has a column of the type {text!r}, which is none")
        if not found.group().isspace():
            tokens.append(found.group())
        position = found.end()
    try:
        reader = _TypeReader(tokens, next_id)
        kind = reader.type()
        reader.end()
    except (LookupError, ValueError) as error:
        raise NotSupported(f"a manifest has a column of the type {text!r}, which is none") from error
    return kind


class _TypeReader:
    """Reads a type from its tokens."""

    def __init__(self, tokens: list[str], next_id: Callable[[], int]) -> None:
        self._tokens = tokens[::-1]
        self._next_id = next_id

    def type(self) -> IcebergType:
        word = self._tokens.pop()
        kind: IcebergType
        if word == "STRUCT":
            kind = self._struct()
        elif word == "MAP":
            self._expect("(")
            key = self.type()
            self._expect(",")
            value = self.type()
            self._expect(")")
            kind = MapType(self._next_id(), key, self._next_id(), value, value_required=False)
        elif word == "DECIMAL":
            self._expect("(")
            precision = int(self._tokens.pop())
            self._expect(",")
            kind = DecimalType(precision, int(self._tokens.pop()))
            self._expect(")")
        else:
            kind = _SIMPLE[word]
        while self._tokens and self._tokens[-1] == "[]":
            self._tokens.pop()
            kind = ListType(self._next_id(), kind, element_required=False)
        return kind

    def end(self) -> None:
        if self._tokens:
            raise ValueError(self._tokens[-1])

    def _struct(self) -> IcebergType:
        self._expect("(")
        fields = []
        while True:
            name = self._tokens.pop()
            if len(name) < 3 or name[0] != '"':
                raise ValueError(name)
            name = name[1:-1].replace('""', '"')
            fields.append(NestedField(self._next_id(), name, self.type(), required=False))
            if self._tokens[-1] != ",":
                break
            self._tokens.pop()
        self._expect(")")
        return StructType(*fields)

    def _expect(self, token: str) -> None:
        found = self._tokens.pop()
        if found != token:
            raise ValueError(found)


def _schema(columns: Sequence[RegisteredColumn]) -> Schema:
    ids = count(1)
    fields = [
        NestedField(
            next(ids),
            column.name,
            iceberg_type(column.type, lambda: next(ids)),
            required=False,
            doc=column.description or None,
        )
        for column in columns
    ]
    # A view is made anew where the columns are others, and only there.
    text = "\n".join(f"{c.name!r} {c.type} {c.in_path}" for c in columns)
    return Schema(*fields, schema_id=_number(text) & 0x7FFFFFFF)


def _number(text: str) -> int:
    """A positive number of 63 bits that stands for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _record(ref: DataFileRef, footer: Footer | None = None, schema: Schema | None = None) -> DataFile:
    """The record of a file as a manifest would have it."""
    sizes: dict[int, int] = {}
    nulls: dict[int, int] = {}
    lower: dict[int, bytes] = {}
    upper: dict[int, bytes] = {}
    if footer is not None and schema is not None:
        fields = {fold(each.name): each for each in schema.fields}
        for column in footer.columns:
            each = fields.pop(fold(column.name), None)
            if each is None:
                continue
            sizes[each.field_id] = column.size_bytes
            if column.nulls is not None:
                nulls[each.field_id] = column.nulls
            if column.minimum is not None and column.maximum is not None and each.field_type.is_primitive:
                lower[each.field_id] = encoded(each.field_type, column.minimum)
                upper[each.field_id] = encoded(each.field_type, column.maximum)
        nulls |= {absent.field_id: ref.rows for absent in fields.values()}
    file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=ref.uri,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=ref.rows,
        file_size_in_bytes=ref.size_bytes,
        column_sizes=sizes,
        value_counts={},
        null_value_counts=nulls,
        nan_value_counts={},
        lower_bounds=lower,
        upper_bounds=upper,
        split_offsets=None,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
    )
    file.spec_id = 0
    return file
