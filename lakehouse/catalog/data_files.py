"""Iceberg's record of a Parquet file: where it is and what statistics tell about its columns."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import compute_statistics_plan, data_file_statistics_from_parquet_metadata
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.typedef import Record

from lakehouse.catalog.iceberg_types import leaf_field_ids


def data_file(
    uri: str, size_bytes: int, footer: pq.FileMetaData, schema: Schema, properties: Mapping[str, str], spec_id: int
) -> DataFile:
    """The record of a file that was written with ``iceberg_types.file_schema(schema)``.

    Args:
        uri: Where the file is.
        size_bytes: How large it is.
        footer: Its Parquet metadata.
        schema: The Iceberg schema it was written with.
        properties: The table's properties, which say how much statistics to keep.
        spec_id: The table's (empty) partition spec.
    """
    leaves = leaf_field_ids(schema)
    # By position, because names that contain dots make the paths of Parquet columns ambiguous.
    ids = {footer.schema.column(position).path: field_id for position, field_id in enumerate(leaves)}
    statistics = data_file_statistics_from_parquet_metadata(
        footer, compute_statistics_plan(schema, dict(properties)), ids
    )
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=uri,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        file_size_in_bytes=size_bytes,
        sort_order_id=None,
        spec_id=spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
