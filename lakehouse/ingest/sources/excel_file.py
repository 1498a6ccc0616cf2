"""Sheets of workbooks as batches, by calamine. The only module that imports it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any, BinaryIO

import pyarrow as pa

from lakehouse.errors import InvalidRequest, LimitExceeded, NotSupported
from lakehouse.ingest.sources.arrow_source import REASON, STRICTER, Batches
from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.text_kinds import LARGEST_EXACT

_SHOWN = 40
_NAMES: dict[type, tuple[str, pa.DataType]] = {
    bool: ("true or false", pa.bool_()),
    float: ("numbers", pa.float64()),
    date: ("dates", pa.date32()),
    datetime: ("times", pa.timestamp("us")),
    time: ("times of day", pa.time64("us")),
}


def excel(stream: BinaryIO, name: str, options: FileOptions) -> Batches:
    """One sheet of a workbook (xlsx, xlsm, xlsb, xls, ods), whole: it cannot be read otherwise.

    Raises:
        NotSupported: The extra is not installed.
        InvalidRequest: It is damaged, or has no such sheet.
        LimitExceeded: It is too large.
    """
    try:
        import python_calamine  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise NotSupported(
            "workbooks need a library that is not installed", "pip install lakehouse-server[ingest]"
        ) from error
    _check_size(stream, name, options)
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(stream)
        names = book.sheet_names
        if options.sheet and options.sheet not in names:
            known = ", ".join(f"'{sheet}'" for sheet in names)
            raise InvalidRequest(f"'{name}' has no sheet '{options.sheet}'", f"its sheets are {known}")
        cells = book.get_sheet_by_name(options.sheet or names[0]).to_python(skip_empty_area=True)
    except (python_calamine.CalamineError, IndexError) as error:
        raise InvalidRequest(f"'{name}' is no workbook, or is damaged", "bring it here again") from error
    found = ([None if cell == "" else cell for cell in row] for row in cells)
    rows: list[list[Any]] = [row for row in found if any(cell is not None for cell in row)]
    if not rows:
        raise InvalidRequest(f"the sheet '{options.sheet or names[0]}' of '{name}' is empty")
    header = _is_header(rows[0]) if options.header is None else options.header
    titles = [
        str(cell) if header and cell is not None else f"column_{n}" for n, cell in enumerate(rows[0], 1)
    ]
    data = rows[1:] if header else rows
    columns = [_column(title, [row[n] for row in data], 1 + header) for n, title in enumerate(titles)]
    schema = pa.schema([field for field, _ in columns])
    batch = pa.RecordBatch.from_arrays([array for _, array in columns], schema=schema)
    return Batches(schema, batch.num_rows, iter([batch]))


def _check_size(stream: BinaryIO, name: str, options: FileOptions) -> None:
    most = options.limits.max_document_bytes
    size = stream.seek(0, 2)
    stream.seek(0)
    if zipfile.is_zipfile(stream):
        stream.seek(0)
        size = max(size, sum(member.file_size for member in zipfile.ZipFile(stream).infolist()))
    stream.seek(0)
    if size > most:
        raise LimitExceeded(
            f"the workbook '{name}' has {size} bytes, at most {most} are taken (max_document_bytes)",
            "save the sheet as CSV, which can be of any size",
        )


def _is_header(row: Sequence[Any]) -> bool:
    named = [cell for cell in row if cell is not None]
    return all(isinstance(cell, str) for cell in named) and len(set(named)) == len(named)


def _column(title: str, cells: Sequence[Any], first_row: int) -> tuple[pa.Field, pa.Array]:
    """The cells as values of one type: text, unless all are of another."""
    kinds = {_kind(cell) for cell in cells if cell is not None}
    values: list[Any] = list(cells)
    if not kinds:
        return _made(title, pa.string(), "there is no value"), pa.array(values, pa.string())
    if kinds == {date, datetime}:
        kinds = {datetime}
        values = [datetime.combine(cell, time()) if type(cell) is date else cell for cell in cells]
    if kinds == {float} and all(_is_whole(cell) for cell in cells if cell is not None):
        array = pa.array([None if cell is None else int(cell) for cell in cells], pa.int64())
        return _made(title, pa.int64(), "all numbers are whole"), array
    only = next(iter(kinds))
    if len(kinds) == 1 and only in _NAMES:
        what, type_ = _NAMES[only]
        return _made(title, type_, f"all cells are {what}"), pa.array(values, type_)
    stricter = _stricter(cells, first_row) if len(kinds) > 1 else ""
    reason = "cells of several kinds" if len(kinds) > 1 else "text"
    return _made(title, pa.string(), reason, stricter), pa.array([_text(cell) for cell in cells], pa.string())


def _made(title: str, type_: pa.DataType, reason: str, stricter: str = "") -> pa.Field:
    return pa.field(title, type_, metadata={REASON: reason, STRICTER: stricter})


def _kind(cell: Any) -> type:
    return float if type(cell) is int else type(cell)


def _is_whole(cell: float) -> bool:
    return float(cell).is_integer() and abs(cell) <= LARGEST_EXACT


def _stricter(cells: Sequence[Any], first_row: int) -> str:
    """What would be lost if the most frequent kind besides text were taken."""
    counts: dict[type, int] = {}
    for cell in cells:
        if cell is not None and not isinstance(cell, str):
            counts[_kind(cell)] = counts.get(_kind(cell), 0) + 1
    best = max(counts, key=lambda kind: counts[kind])
    others = [(n, cell) for n, cell in enumerate(cells) if cell is not None and _kind(cell) is not best]
    what = _NAMES.get(best, ("values", pa.string()))[0]
    place, shown = others[0][0] + first_row, str(others[0][1])[:_SHOWN]
    return f"as {what} {len(others)} values would be lost, first '{shown}' in row {place}"


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, int | float):
        return str(int(cell)) if _is_whole(cell) else repr(cell)
    return str(cell)
