"""What a caller may say of files, and what bounds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Bounds of what reading a file takes. Names stand in messages, so that people know what to change.

    Attributes:
        block_bytes: How much text is parsed at a time; a few blocks are in memory.
        max_row_bytes: The longest row of text, or JSON value, that is taken.
        sample_bytes: How much types are inferred from at first; the rest is verified while reading.
        max_columns: The most columns.
        max_expanded_bytes: The most that a compressed file may grow to.
        max_expansion: The most times its size that it may grow to …
        expansion_floor_bytes: … once it is this large.
        max_members: The most files in an archive.
        max_document_bytes: The largest file that can only be read whole, such as a workbook, expanded.
    """

    block_bytes: int = 8 * _MB
    max_row_bytes: int = 16 * _MB
    sample_bytes: int = 8 * _MB
    max_columns: int = 20_000
    max_expanded_bytes: int = 1024 * 1024 * _MB
    max_expansion: int = 250
    expansion_floor_bytes: int = 256 * _MB
    max_members: int = 10_000
    max_document_bytes: int = 256 * _MB


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What a caller says of files; everything left out is found out.

    Attributes:
        format: ``csv``, ``jsonl``, ``json``, ``parquet``, ``arrow``, ``avro``, ``orc`` or ``excel``.
        delimiter: One ASCII character between fields.
        quote: One ASCII character around fields; empty for none.
        encoding: As Python names it.
        header: Whether the first row names the columns.
        types: Types by the names of the source or of the table: ``{"day": "DATE(%d/%m/%Y)"}``.
        null_values: Texts that stand for a missing value, where they are not quoted.
        sheet: The sheet of a workbook; the first one if empty.
    """

    format: str = ""
    delimiter: str = ""
    quote: str | None = None
    encoding: str = ""
    header: bool | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    null_values: tuple[str, ...] = ()
    sheet: str = ""
    limits: FileLimits = field(default_factory=FileLimits)
