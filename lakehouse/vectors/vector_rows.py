"""Takes the vectors out of a table, and what an index keeps of its rows beside them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import InvalidRequest
from lakehouse.vectors.faiss_index import Vectors
from lakehouse.vectors.generation import VectorColumn


def split(table: pa.Table, source: VectorColumn) -> tuple[pa.Table, Vectors]:
    """What an index keeps of a table beside the vectors, and these; rows without a vector are left out.

    Raises:
        InvalidRequest: A column is not there, does not hold vectors, or such of several lengths.
    """
    name = f"{source.table}.{source.column}"
    for column in (source.column, *source.rows):
        if column not in table.column_names:
            raise InvalidRequest(f"column '{source.table}.{column}' does not exist")
    kind = table.schema.field(source.column).type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise InvalidRequest(f"column '{name}' is of type {kind}, expected a list of numbers")
    if table[source.column].null_count:
        table = table.filter(pc.is_valid(table[source.column]))
    column = table[source.column]
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1:
        shown = " and ".join(map(str, sorted(lengths)[:2]))
        raise InvalidRequest(f"column '{name}' holds vectors of {shown} numbers, expected one length")
    if not lengths:
        if not pa.types.is_fixed_size_list(kind):
            raise InvalidRequest(f"column '{name}' holds no vector, so their length is not known")
        lengths = [kind.list_size]
    values = (
        pa.concat_arrays([pc.list_flatten(chunk) for chunk in column.chunks]) if column.num_chunks else None
    )
    if values is not None and values.null_count:
        raise InvalidRequest(f"column '{name}' holds a vector of which a number is missing")
    flat = np.empty(0, np.float32) if values is None else values.to_numpy(zero_copy_only=False)
    vectors: Vectors = flat.astype(np.float32, copy=False).reshape(-1, lengths[0])
    return table.select(list(source.rows)).combine_chunks(), vectors
