"""Rows as a table for people: names and types on top, numbers to the right, NULL marked."""

from __future__ import annotations

import re

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flight_server.output.text import as_text

_GAP = 3
_LEAST_CELL = 20
# Beyond any line: what is not read on a terminal is never cut.
_UNBOUNDED = 10_000_000
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WHOLE_SECONDS = re.compile(r"\.0+(?=Z|[+-]|\Z)")


def fitting(console: Console) -> Console:
    """A console that cuts what is too wide for a terminal, and nothing elsewhere."""
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def print_table(console: Console, rows: pa.Table) -> int:
    """Print the leading columns, as many as the console is wide, at least one.

    Returns:
        The number of columns shown.
    """
    cells = [_cells(column) for column in rows.columns]
    widths = _widths(rows.schema, cells, console.width)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
    for field, width in zip(rows.schema, widths, strict=False):
        table.add_column(
            Text.assemble(_visible(field.name), "\n", (str(field.type), "dim not bold")),
            justify="right" if _is_number(field.type) else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=width,
        )
    for row in zip(*cells[: len(widths)], strict=True):
        table.add_row(*row)
    console.print(table)
    return len(widths)


def _widths(schema: pa.Schema, cells: list[list[Text]], room: int) -> list[int]:
    """The widths of the columns that fit. One column takes half of the room only if others leave it more."""
    wanted = [
        max(len(_visible(field.name)), len(str(field.type)), *(cell.cell_len for cell in column), 1)
        for field, column in zip(schema, cells, strict=True)
    ]
    limit = max(_LEAST_CELL, room // 2)
    fitting, left = 1, room - min(wanted[0], limit)
    for width in wanted[1:]:
        left -= min(width, limit) + _GAP
        if left < 0:
            left += min(width, limit) + _GAP
            break
        fitting += 1
    widths = []
    for width in wanted[:fitting]:
        more = min(left, max(0, width - limit))
        left -= more
        widths.append(min(width, limit) + more)
    return widths


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cells(column: pa.ChunkedArray) -> list[Text]:
    timed = pa.types.is_timestamp(column.type) or pa.types.is_time(column.type)
    cells = []
    for chunk in column.chunks:
        for text in as_text(chunk).to_pylist():
            if text is None:
                cells.append(Text("NULL", style="dim"))
            else:
                cells.append(Text(_WHOLE_SECONDS.sub("", text) if timed else _visible(text)))
    return cells


def _visible(text: str) -> str:
    """The text on one line, without anything that would steer the terminal."""
    return _INVISIBLE.sub(lambda match: repr(match[0])[1:-1], text)
