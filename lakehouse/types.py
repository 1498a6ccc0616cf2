"""Value types shared by every layer."""

from __future__ import annotations

from dataclasses import dataclass


def quote(identifier: str) -> str:
    """An identifier as SQL text, always quoted."""
    return '"' + identifier.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """The full name of a table."""

    catalog: str
    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.catalog}.{self.schema}.{self.table}"

    @property
    def sql(self) -> str:
        """The name as quoted SQL text."""
        return f"{quote(self.catalog)}.{quote(self.schema)}.{quote(self.table)}"


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A declared, not enforced, reference from columns of one table to a key of another.

    ``ref_schema`` and ``ref_table`` are in the same catalog as the referring table.
    """

    name: str
    columns: tuple[str, ...]
    ref_schema: str
    ref_table: str
    ref_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteFileRef:
    """One immutable file at ``path`` that says which rows of data files are gone.

    With ``equality_ids`` those that have the same values in the columns of these ids; else by position. With
    a ``length`` it is a deletion vector, at ``offset`` in the file.
    """

    path: str
    equality_ids: tuple[int, ...] = ()
    offset: int = 0
    length: int = 0

    @property
    def is_vector(self) -> bool:
        """Whether it is a deletion vector."""
        return self.length > 0


@dataclass(frozen=True, slots=True)
class DataFileRef:
    """One immutable data file of a snapshot; read at ``path``, which the table calls ``uri``.

    ``rows`` are all that are in the file; those of them are gone that ``deletes`` say.
    """

    path: str
    rows: int
    size_bytes: int
    uri: str
    deletes: tuple[DeleteFileRef, ...] = ()
