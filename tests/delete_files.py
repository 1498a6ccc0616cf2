"""Delete files as other engines write them, by hand after the Iceberg specification."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.avro.file import AvroOutputFile
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record
from pyroaring import BitMap

PATH_FIELD = 2147483546
POSITIONS = pa.schema(
    [
        pa.field("file_path", pa.string(), nullable=False, metadata={"PARQUET:field_id": str(PATH_FIELD)}),
        pa.field("pos", pa.int64(), nullable=False, metadata={"PARQUET:field_id": "2147483545"}),
    ]
)


class DeleteManifestWriter(ManifestWriterV2):
    """Writes what pyiceberg cannot: manifests of delete files, with the fields of version 3."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}

    def new_writer(self) -> AvroOutputFile[ManifestEntry]:
        return AvroOutputFile[ManifestEntry](
            output_file=self._output_file,
            file_schema=self._with_partition(3),
            record_schema=self._with_partition(3),
            schema_name="manifest_entry",
            metadata=self._meta,
        )


class Deletes(_FastAppendFiles):
    """A snapshot that adds delete files."""

    deletes: Sequence[DataFile] = ()

    def _summary(self, snapshot_properties: Any = None) -> Any:
        self._added_data_files = list(self.deletes)
        summary = super()._summary(snapshot_properties or {})
        self._added_data_files = []
        return summary

    def _manifests(self) -> list[ManifestFile]:
        made = []
        for spec_id in sorted({file.spec_id for file in self.deletes}):
            writer = DeleteManifestWriter(
                self.spec(spec_id), self.schema(), self.new_manifest_output(), self._snapshot_id, "null"
            )
            with writer:
                for file in self.deletes:
                    if file.spec_id == spec_id:
                        entry = ManifestEntry.from_args(
                            status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id, data_file=file
                        )
                        writer.add_entry(entry)
            made.append(writer.to_manifest_file())
        return made + self._existing_manifests()


def add_deletes(table: Table, *files: DataFile) -> int:
    """Commit delete files; gives the snapshot."""
    table.refresh()
    with table.transaction() as transaction:
        producer = Deletes(Operation.DELETE, transaction, table.io)
        producer.deletes = files
        transaction._stage(*producer._commit())
    return producer.snapshot_id


def positional(
    table: Table, rows: Sequence[tuple[str, int]], like: DataFile, *, named: bool = False
) -> DataFile:
    """A file with positions of deleted rows; ``like`` is a data file of its partition."""
    content = pa.table([[path for path, _ in rows], [pos for _, pos in rows]], schema=POSITIONS)
    paths = sorted(path.encode() for path, _ in rows)
    bounds = {"lower_bounds": {PATH_FIELD: paths[0]}, "upper_bounds": {PATH_FIELD: paths[-1]}}
    return _record(table, content, DataFileContent.POSITION_DELETES, like, **(bounds if named else {}))


def equality(table: Table, rows: pa.Table, ids: Sequence[int], like: DataFile | None) -> DataFile:
    """A file with the values of deleted rows, by the field ids of its columns."""
    fields = [
        field.with_metadata({"PARQUET:field_id": str(field_id)})
        for field, field_id in zip(rows.schema, ids, strict=True)
    ]
    content = pa.table(rows.columns, schema=pa.schema(fields))
    return _record(table, content, DataFileContent.EQUALITY_DELETES, like, equality_ids=list(ids))


def vectors(
    table: Table, deleted: dict[str, Sequence[int]], like: DataFile, damage: int = 0
) -> list[DataFile]:
    """One Puffin file with a deletion vector per data file, and a record for each."""
    body, blobs, places = b"PFA1", [], []
    for path, positions in deleted.items():
        parts: dict[int, list[int]] = {}
        for position in positions:
            parts.setdefault(position >> 32, []).append(position & 0xFFFFFFFF)
        bitmaps = b"".join(
            high.to_bytes(4, "little") + BitMap(low).serialize() for high, low in sorted(parts.items())
        )
        content = b"\xd1\xd3\x39\x64" + len(parts).to_bytes(8, "little") + bitmaps
        blob = len(content).to_bytes(4, "big") + content + (zlib.crc32(content) ^ damage).to_bytes(4, "big")
        places.append((path, len(body), len(blob), len(positions)))
        blobs.append(
            {
                "type": "deletion-vector-v1",
                "fields": [],
                "snapshot-id": -1,
                "sequence-number": -1,
                "offset": len(body),
                "length": len(blob),
                "properties": {"referenced-data-file": path, "cardinality": str(len(positions))},
            }
        )
        body += blob
    footer = json.dumps({"blobs": blobs, "properties": {}}).encode()
    body += b"PFA1" + footer + len(footer).to_bytes(4, "little") + bytes(4) + b"PFA1"
    uri = f"{table.location()}/data/{uuid.uuid4()}.puffin"
    _local(uri).write_bytes(body)
    return [
        _data_file(
            uri,
            FileFormat.PUFFIN,
            DataFileContent.POSITION_DELETES,
            cardinality,
            len(body),
            like,
            referenced_data_file=path,
            content_offset=offset,
            content_size_in_bytes=length,
        )
        for path, offset, length, cardinality in places
    ]


def data_files(table: Table) -> list[DataFile]:
    """The data files of the current snapshot, in the order of their commits."""
    snapshot = table.refresh().current_snapshot()
    entries = [
        entry
        for manifest in (snapshot.manifests(table.io) if snapshot else ())
        if manifest.content == ManifestContent.DATA
        for entry in manifest.fetch_manifest_entry(table.io)
    ]
    return [entry.data_file for entry in sorted(entries, key=lambda entry: entry.sequence_number or 0)]


def make_version_3(table: Table) -> None:
    """Put a version of the table's metadata on top that says it is of format version 3."""
    directory = _local(f"{table.location()}/metadata")
    latest = max(int(path.name[1:].split(".")[0]) for path in directory.glob("v*.metadata.json"))
    metadata = json.loads((directory / f"v{latest}.metadata.json").read_text())
    metadata |= {"format-version": 3, "next-row-id": 0}
    (directory / f"v{latest + 1}.metadata.json").write_text(json.dumps(metadata))


def _record(
    table: Table, content: pa.Table, kind: DataFileContent, like: DataFile | None, **more: Any
) -> DataFile:
    uri = f"{table.location()}/data/{uuid.uuid4()}-deletes.parquet"
    _local(uri).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, _local(uri))
    size = _local(uri).stat().st_size
    return _data_file(uri, FileFormat.PARQUET, kind, content.num_rows, size, like, **more)


def _data_file(
    uri: str,
    form: FileFormat,
    kind: DataFileContent,
    rows: int,
    size: int,
    like: DataFile | None,
    **more: Any,
) -> DataFile:
    file = DataFile.from_args(
        _table_format_version=3,
        content=kind,
        file_path=uri,
        file_format=form,
        partition=like.partition if like else Record(),
        record_count=rows,
        file_size_in_bytes=size,
        **more,
    )
    file.spec_id = like.spec_id if like else 0
    return file


def _local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))
