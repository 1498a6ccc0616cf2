"""What manifests tell about the columns of data files, kept as columns themselves."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyiceberg.manifest import DataFile
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    StringType,
    TimestampType,
    TimestamptzType,
)

Mask = npt.NDArray[np.bool_]
# How bounds may be stored, by their length: a column that was widened has bounds of both widths.
_WIDTHS: dict[IcebergType, dict[int, str]] = {
    BooleanType(): {1: "<u1"},
    IntegerType(): {4: "<i4"},
    LongType(): {4: "<i4", 8: "<i8"},
    DateType(): {4: "<i4"},
    TimestampType(): {8: "<i8"},
    TimestamptzType(): {8: "<i8"},
    FloatType(): {4: "<f4"},
    DoubleType(): {4: "<f4", 8: "<f8"},
}


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """What is known of one column in each of some files.

    Attributes:
        lower: No value is less: as int64, float64, or Python objects (unscaled decimals, UTF-8 bytes).
        upper: No value is greater, NaN apart.
        has_lower: Where ``lower`` means something.
        has_upper: Where ``upper`` means something.
        nulls: How many values are NULL; -1 where that is unknown.
        rows: How many rows the file has.
        has_nan: Where a value might be NaN.
    """

    lower: npt.NDArray[Any]
    upper: npt.NDArray[Any]
    has_lower: Mask
    has_upper: Mask
    nulls: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    has_nan: Mask


class ManifestStatistics:
    """The statistics of the files of one manifest, by field id, as the manifest has them.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[DataFile]) -> None:
        self.uris = [file.file_path for file in files]
        self.rows = [file.record_count for file in files]
        self._lower = _by_field([file.lower_bounds for file in files], pa.binary())
        self._upper = _by_field([file.upper_bounds for file in files], pa.binary())
        self._nulls = _by_field([file.null_value_counts for file in files], pa.int64())
        self._nans = _by_field([file.nan_value_counts for file in files], pa.int64())

    @property
    def cells(self) -> int:
        """How much is held, in numbers of values."""
        columns = len(self._lower) + len(self._upper) + len(self._nulls) + len(self._nans)
        return len(self.uris) * (columns + 1)

    def lower(self, field_id: int) -> list[Any]:
        """For each file the lower bound of a column in Iceberg's serialisation; None where there is none."""
        return self._of(self._lower, field_id)

    def upper(self, field_id: int) -> list[Any]:
        """As ``lower``, for the upper bound."""
        return self._of(self._upper, field_id)

    def nulls(self, field_id: int) -> list[Any]:
        """For each file how many values are NULL."""
        return self._of(self._nulls, field_id)

    def nans(self, field_id: int) -> list[Any]:
        """For each file how many values are NaN."""
        return self._of(self._nans, field_id)

    def _of(self, columns: dict[int, pa.Array], field_id: int) -> list[Any]:
        found = columns.get(field_id)
        return [None] * len(self.uris) if found is None else found.to_pylist()


class FileStatistics:
    """The statistics of the files of one snapshot.

    Args:
        manifests: Those of its manifests.
    """

    def __init__(self, manifests: Sequence[ManifestStatistics]) -> None:
        self._manifests = manifests
        self._columns: dict[tuple[int, IcebergType], ColumnStatistics | None] = {}

    @cached_property
    def uris(self) -> npt.NDArray[Any]:
        """What the table calls the files, in the order of the statistics."""
        return np.array(list(chain.from_iterable(m.uris for m in self._manifests)), dtype=object)

    def column(self, field_id: int, kind: IcebergType) -> ColumnStatistics | None:
        """What is known of a column; None for types whose bounds are not used.

        Args:
            field_id: The column.
            kind: Its type now; files may have been written with a narrower one.
        """
        key = (field_id, kind)
        if key not in self._columns:
            self._columns[key] = self._column(field_id, kind)
        return self._columns[key]

    def _column(self, field_id: int, kind: IcebergType) -> ColumnStatistics | None:
        if not (kind in _WIDTHS or isinstance(kind, DecimalType | StringType)):
            return None
        lower, has_lower = _decoded(kind, _chained(m.lower(field_id) for m in self._manifests))
        upper, has_upper = _decoded(kind, _chained(m.upper(field_id) for m in self._manifests))
        nulls = _chained(m.nulls(field_id) for m in self._manifests)
        rows = _chained(m.rows for m in self._manifests)
        has_nan = np.zeros(len(rows), dtype=bool)
        if isinstance(kind, FloatType | DoubleType):
            nans = _chained(m.nans(field_id) for m in self._manifests)
            has_nan = np.array([count != 0 for count in nans], dtype=bool)
            has_lower &= ~np.isnan(lower)
            has_upper &= ~np.isnan(upper)
        counts = np.array([-1 if count is None else count for count in nulls], dtype=np.int64)
        return ColumnStatistics(
            lower, upper, has_lower, has_upper, counts, np.array(rows, dtype=np.int64), has_nan
        )


def _by_field(maps: Sequence[dict[int, Any] | None], kind: pa.DataType) -> dict[int, pa.Array]:
    ids = sorted({field_id for each in maps if each for field_id in each})
    return {i: pa.array([each.get(i) if each else None for each in maps], kind) for i in ids}


def _chained(parts: Any) -> list[Any]:
    return list(chain.from_iterable(parts))


def _decoded(kind: IcebergType, bounds: list[bytes | None]) -> tuple[npt.NDArray[Any], Mask]:
    """The values that serialised bounds stand for, and where there are any."""
    if isinstance(kind, StringType):
        known = np.array([bound is not None for bound in bounds], dtype=bool)
        return np.array([b"" if bound is None else bound for bound in bounds], dtype=object), known
    if isinstance(kind, DecimalType):
        known = np.array([bool(bound) for bound in bounds], dtype=bool)
        numbers = [int.from_bytes(bound, "big", signed=True) if bound else 0 for bound in bounds]
        return np.array(numbers, dtype=np.int64 if kind.precision <= 18 else object), known
    widths = _WIDTHS[kind]
    known = np.array([bound is not None and len(bound) in widths for bound in bounds], dtype=bool)
    is_float = isinstance(kind, FloatType | DoubleType)
    found = {len(bound) for bound, use in zip(bounds, known, strict=True) if use and bound is not None}
    target = np.dtype(np.float64 if is_float else np.int64)
    if len(found) == 1:
        (width,) = found
        filler = bytes(width)
        raw = b"".join(
            bound if use and bound is not None else filler for bound, use in zip(bounds, known, strict=True)
        )
        return np.frombuffer(raw, dtype=widths[width]).astype(target), known
    values = [
        struct.unpack(_struct(widths[len(bound)]), bound)[0] if use and bound is not None else 0
        for bound, use in zip(bounds, known, strict=True)
    ]
    return np.array(values, dtype=target), known


def _struct(dtype: str) -> str:
    return {"<u1": "<B", "<i4": "<i", "<i8": "<q", "<f4": "<f", "<f8": "<d"}[dtype]
