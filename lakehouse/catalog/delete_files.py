"""Rows that other engines deleted without rewriting their files: which, by delete file and deletion vector.

After the Iceberg table specification, sections "Scan Planning", "Row-level Deletes" and, for deletion
vectors, the Puffin specification's blob type ``deletion-vector-v1``.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.avro.file import AvroFile
from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    DATA_FILE_TYPE,
    MANIFEST_ENTRY_SCHEMAS,
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    _inherit_from_manifest,
)
from pyiceberg.table.deletion_vector import DeletionVector

from lakehouse.catalog.iceberg_types import FIELD_ID
from lakehouse.catalog.partitioning import row_codes, sortable
from lakehouse.errors import NotSupported, StorageError
from lakehouse.storage.bucket import Bucket
from lakehouse.types import DataFileRef, DeleteFileRef

Held = Callable[[Iterable[str]], AbstractContextManager[None]]

_PATH_FIELD = 2147483546
_POSITIONS = {_PATH_FIELD: "file_path", 2147483545: "pos"}
_VECTOR_MAGIC = b"\xd1\xd3\x39\x64"
_V3 = {field.name: position for position, field in enumerate(DATA_FILE_TYPE[3].fields)}


class DeleteIndex:
    """Which delete files of a snapshot apply to which of its data files.

    Args:
        bucket: Where the files are.
        io: Reads manifests.
        table: The table's name, for messages.
        manifests: The snapshot's manifests of delete files.
        unpartitioned: The ids of the partition specs that have no fields.
    """

    def __init__(
        self,
        bucket: Bucket,
        io: FileIO,
        table: str,
        manifests: Sequence[ManifestFile],
        unpartitioned: frozenset[int],
    ) -> None:
        self._bucket = bucket
        self._table = table
        self._by_path: defaultdict[str, list[tuple[int, DeleteFileRef]]] = defaultdict(list)
        self._by_partition: defaultdict[Hashable, list[tuple[int, DeleteFileRef, DataFile]]] = defaultdict(
            list
        )
        self._equal: defaultdict[Hashable, list[tuple[int, DeleteFileRef]]] = defaultdict(list)
        for manifest in manifests:
            for entry in _entries(io, manifest):
                self._add(entry.sequence_number or 0, entry.data_file, unpartitioned)

    def _add(self, sequence: int, file: DataFile, unpartitioned: frozenset[int]) -> None:
        if file.content == DataFileContent.EQUALITY_DELETES:
            where = None if file.spec_id in unpartitioned else partition_key(file)
            keys = tuple(sorted(file.equality_ids or ()))
            if not keys:
                raise NotSupported(f"table '{self._table}' has an equality delete file without columns")
            self._equal[where].append((sequence, self._reference(file, keys)))
            return
        target = file[_V3["referenced_data_file"]] or _only_path(file)
        if file.file_format == FileFormat.PUFFIN:
            offset, length = file[_V3["content_offset"]], file[_V3["content_size_in_bytes"]]
            if target is None or offset is None or length is None:
                raise NotSupported(f"table '{self._table}' has a deletion vector that names no data file")
            vector = DeleteFileRef(self._path(file), (), offset, length)
            self._by_path[self._key(target)].append((sequence, vector))
        elif target is not None:
            self._by_path[self._key(target)].append((sequence, self._reference(file)))
        else:
            self._by_partition[partition_key(file)].append((sequence, self._reference(file), file))

    def of(self, sequence: int, partition: Hashable, file: DataFileRef) -> tuple[DeleteFileRef, ...]:
        """The delete files that apply to a data file.

        Args:
            sequence: The number of the commit that brought the data file.
            partition: Its partition, by ``partition_key``.
            file: The data file.
        """
        named = [d for number, d in self._by_path.get(self._key(file.uri), ()) if sequence <= number]
        vectors = [delete for delete in named if delete.is_vector]
        if vectors:
            positions = vectors  # made from whatever positional delete files there were
        else:
            positions = named + [
                delete
                for number, delete, record in self._by_partition.get(partition, ())
                if sequence <= number and _may_name(record, file.uri)
            ]
        equal = [
            delete
            for where in (None, partition)
            for number, delete in self._equal.get(where, ())
            if sequence < number
        ]
        return tuple(dict.fromkeys((*positions, *equal)))

    def _reference(self, file: DataFile, keys: tuple[int, ...] = ()) -> DeleteFileRef:
        if file.file_format != FileFormat.PARQUET:
            raise NotSupported(
                f"table '{self._table}' has delete files of the format {file.file_format}; only Parquet and "
                "deletion vectors can be read"
            )
        return DeleteFileRef(self._path(file), keys)

    def _path(self, file: DataFile) -> str:
        return self._bucket.local_path(self._bucket.key_of(file.file_path))

    def _key(self, uri: str) -> str:
        try:
            return self._bucket.key_of(uri)
        except StorageError:
            return uri


def partition_key(file: DataFile) -> Hashable:
    """What is equal for the files of one partition under one spec, and only for them."""
    values = (file.partition[position] for position in range(len(file.partition)))
    return (file.spec_id, *(repr(value) for value in values))


def deleted_rows(files: Sequence[DataFileRef], held: Held) -> Iterator[tuple[DataFileRef, np.ndarray]]:
    """The positions of the deleted rows of each data file that has delete files, sorted.

    Args:
        files: The data files.
        held: Makes files readable for the length of a ``with``.

    Raises:
        NotSupported: A delete file is not as the specification wants it.
        StorageError: A file could not be read.
    """
    files = [file for file in files if file.deletes]
    with held(_needed(files)):
        yield from _deleted_rows(files)


def _needed(files: Sequence[DataFileRef]) -> Iterator[str]:
    for file in files:
        yield from (delete.path for delete in file.deletes)
        if any(delete.equality_ids for delete in file.deletes):
            yield file.path


def _deleted_rows(files: Sequence[DataFileRef]) -> Iterator[tuple[DataFileRef, np.ndarray]]:
    by_position = _by_position(files)
    equal: dict[tuple[DeleteFileRef, ...], pa.Table] = {}
    for file in files:
        found = by_position.get(file.path, [])
        keyed: defaultdict[tuple[int, ...], list[DeleteFileRef]] = defaultdict(list)
        for delete in file.deletes:
            if delete.equality_ids:
                keyed[delete.equality_ids].append(delete)
        for ids, deletes in keyed.items():
            group = tuple(deletes)
            if group not in equal:
                equal[group] = _keys_of(group, ids)
            found.append(_matching(file, equal[group], ids))
        yield file, np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _entries(io: FileIO, manifest: ManifestFile) -> Iterator[ManifestEntry]:
    # pyiceberg leaves out what version 3 of the format says about deletion vectors.
    with AvroFile[ManifestEntry](
        io.new_input(manifest.manifest_path),
        MANIFEST_ENTRY_SCHEMAS[3],
        read_types={-1: ManifestEntry, 2: DataFile},
        read_enums={0: ManifestEntryStatus, 101: FileFormat, 134: DataFileContent},
    ) as reader:
        for entry in reader:
            if entry.status != ManifestEntryStatus.DELETED:
                yield _inherit_from_manifest(entry, manifest)


def _only_path(file: DataFile) -> str | None:
    lower, upper = _path_bounds(file)
    return lower.decode() if lower is not None and lower == upper else None


def _may_name(delete: DataFile, uri: str) -> bool:
    lower, upper = _path_bounds(delete)
    path = uri.encode()
    return (lower is None or lower <= path) and (upper is None or path <= upper)


def _path_bounds(file: DataFile) -> tuple[bytes | None, bytes | None]:
    lower, upper = file.lower_bounds or {}, file.upper_bounds or {}
    return lower.get(_PATH_FIELD), upper.get(_PATH_FIELD)


def _by_position(files: Sequence[DataFileRef]) -> dict[str, list[np.ndarray]]:
    """Per path of a data file: positions of deleted rows, from each delete file that names them."""
    wanted: defaultdict[DeleteFileRef, list[DataFileRef]] = defaultdict(list)
    for file in files:
        for delete in file.deletes:
            if not delete.equality_ids:
                wanted[delete].append(file)
    found: dict[str, list[np.ndarray]] = {file.path: [] for file in files}
    for delete, named in wanted.items():
        if delete.is_vector:
            for file in named:
                found[file.path].append(_vector(delete))
            continue
        rows = _columns(delete.path, _POSITIONS)
        if rows is None:
            raise NotSupported("a positional delete file lacks the columns file_path and pos")
        paths = rows.column("file_path").combine_chunks()
        encoded = (
            paths if isinstance(paths, pa.Array) else pa.concat_arrays(paths.chunks)
        ).dictionary_encode()
        numbers = {path: number for number, path in enumerate(encoded.dictionary.to_pylist())}
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        positions = rows.column("pos").to_numpy()
        for file in named:
            for spelled in {file.uri, file.path, f"file:{file.path}", f"file://{file.path}"} & numbers.keys():
                found[file.path].append(positions[codes == numbers[spelled]])
    return found


def _vector(delete: DeleteFileRef) -> np.ndarray:
    with _reading(), Path(delete.path).open("rb") as source:
        source.seek(delete.offset)
        blob = source.read(delete.length)
    length = int.from_bytes(blob[:4], "big")
    content = blob[4 : 4 + length]
    sound = len(blob) == length + 8 and content[:4] == _VECTOR_MAGIC
    if not sound or zlib.crc32(content) != int.from_bytes(blob[-4:], "big"):
        raise StorageError("a deletion vector is damaged: its length, magic number or checksum is wrong")
    bitmaps = DeletionVector._deserialize_bitmap(content[4:])  # noqa: SLF001
    parts = [np.fromiter(bitmap, np.int64, len(bitmap)) + (high << 32) for high, bitmap in enumerate(bitmaps)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _keys_of(deletes: Sequence[DeleteFileRef], ids: tuple[int, ...]) -> pa.Table:
    tables = []
    for delete in deletes:
        rows = _columns(delete.path, {field_id: str(field_id) for field_id in ids})
        if rows is None:
            raise NotSupported("an equality delete file lacks a column that it deletes by")
        tables.append(rows)
    return pa.concat_tables(tables, promote_options="permissive")


def _matching(file: DataFileRef, gone: pa.Table, ids: tuple[int, ...]) -> np.ndarray:
    """The positions of the rows whose key is one of those that are gone; NULL equals NULL."""
    rows = _columns(file.path, {field_id: str(field_id) for field_id in ids}, missing=gone.schema)
    if rows is None:
        raise NotSupported("a data file has no field ids, by which its deleted rows could be found")
    both = pa.concat_tables([rows.select(gone.column_names), gone], promote_options="permissive")
    keys = [sortable(pa.concat_arrays(column.chunks)) for column in both.columns]
    # Few rows have a value in each column that is gone there: only those are looked at as a whole.
    count = rows.num_rows
    found = np.ones(count, bool)
    for key in keys:
        found &= pc.is_in(key.slice(0, count), value_set=key.slice(count)).to_numpy(zero_copy_only=False)
    candidates = np.flatnonzero(found)
    if len(keys) == 1 or not len(candidates):
        return candidates
    chosen = pa.array(np.concatenate([candidates, np.arange(count, both.num_rows)]))
    codes = row_codes([key.take(chosen) for key in keys], len(chosen))
    return candidates[np.isin(codes[: len(candidates)], codes[len(candidates) :])]


def _columns(path: str, names: Mapping[int, str], missing: pa.Schema | None = None) -> pa.Table | None:
    """Columns of a Parquet file by field id; NULL for one that a data file does not have."""
    with _reading(), pq.ParquetFile(path) as file:
        places = dict(_field_ids(file.schema_arrow))
        if missing is None and not names.keys() <= places.keys():
            return None
        if not places:
            return None
        wanted = sorted({places[field_id][0] for field_id in names if field_id in places})
        read = file.read(columns=wanted) if wanted else None
        columns = {}
        for field_id, name in names.items():
            if field_id in places and read is not None:
                columns[name] = _within(read, places[field_id])
            elif missing is not None:
                columns[name] = pa.nulls(file.metadata.num_rows, missing.field(name).type)
        return pa.table(columns)


def _within(rows: pa.Table, place: tuple[str, ...]) -> pa.Array:
    column = rows.column(place[0]).combine_chunks()
    values = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    for name in place[1:]:
        values = pc.struct_field(values, [name])
    return values.storage if isinstance(values.type, pa.BaseExtensionType) else values


def _field_ids(schema: pa.Schema) -> Iterator[tuple[int, tuple[str, ...]]]:
    def within(fields: Sequence[pa.Field], way: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
        for field in fields:
            field_id = (field.metadata or {}).get(FIELD_ID)
            if field_id is not None:
                yield int(field_id), (*way, field.name)
            if pa.types.is_struct(field.type):
                yield from within(list(field.type), (*way, field.name))

    yield from within(list(schema), ())


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            "a file with deleted rows, or the data file it is about, cannot be read"
        ) from error
