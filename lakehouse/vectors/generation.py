"""What is known of one generation of an index: what it was made of, how, and its files."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from lakehouse.errors import InvalidRequest
from lakehouse.types import TableName
from lakehouse.vectors.parameters import IndexParameters

FORMAT = 1
_NAME = re.compile(r"([a-z0-9][a-z0-9_-]{0,62}:)?[a-z0-9_][a-z0-9_-]{0,99}")


def checked_name(name: str) -> str:
    """The name of an index as it is kept: in lower case, and with that of its profile if it is of one.

    Raises:
        InvalidRequest: It is no such name.
    """
    folded = name.lower() if name.isascii() else name
    if not _NAME.fullmatch(folded):
        raise InvalidRequest(
            f"{name!r} is no name of a vector index",
            "expected 1 to 100 letters from a to z, digits, _ and -, not beginning with -",
        )
    return folded


class FullName(str):
    """The name of an index with its profile, as it was found out once for a call: nothing changes it."""

    __slots__ = ()


def parted_name(name: str) -> tuple[str, str]:
    """The profile of an index, empty where it is of none, and its name within that."""
    profile, _, index = name.rpartition(":")
    return profile, index


@dataclass(frozen=True, slots=True)
class Model:
    """The model that vectors were made with; vectors of two models cannot be compared.

    Attributes:
        profile: What the configuration calls it.
        provider: Who runs it.
        name: What the provider calls it.
        digest: Tells its version from others of the same name.
    """

    profile: str = ""
    provider: str = ""
    name: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class VectorColumn:
    """Where vectors are.

    Attributes:
        table: The table.
        table_uuid: Its id, so that another table of that name is not taken for it.
        column: The column that holds them.
        rows: The columns that the index keeps beside them.
        snapshot_id: The snapshot that was read; None where the table had none.
    """

    table: TableName
    table_uuid: str
    column: str
    rows: tuple[str, ...]
    snapshot_id: int | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """The table that vectors were made from: who searches them has to be allowed to read it.

    Attributes:
        table: The table.
        table_uuid: Its id.
        columns: Its columns that the index tells of.
        keys: What tells its rows apart, in columns that the rows of the index have as well; empty where
            nobody knows.
        snapshot_id: The snapshot that the vectors were made from; None where the table had none.
    """

    table: TableName
    table_uuid: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    snapshot_id: int | None = None


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A file of a generation: its key in the bucket, its size and the SHA-256 of its content."""

    key: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LexicalPart:
    """The index of words of a generation.

    Attributes:
        column: The column of its rows that the words were taken from.
        words: Which way of taking them; see ``lakehouse.vectors.words``.
        file: The file of it.
    """

    column: str
    words: int
    file: IndexFile


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of an index. It never changes.

    Attributes:
        index: The name of the index.
        id: Tells it from all others of that index; ids of later generations are greater.
        created_at: When it was built, in UTC.
        created_by: Whose call that was.
        model: What made the vectors.
        parameters: How the index was built.
        dimension: Of the vectors.
        count: How many there are.
        source: Where they were read.
        guard: What they were made from: the same table, or one of which they are the embeddings.
        build_seconds: How long building took, without reading and writing.
        vectors: The file of the index.
        rows: The file of its rows: for each position what ``source`` has beside the vector, as Arrow IPC.
        lexical: The index of the words of its rows, where there is one.
    """

    index: str
    id: str
    created_at: datetime
    created_by: str
    model: Model
    parameters: IndexParameters
    dimension: int
    count: int
    source: VectorColumn
    guard: Guard
    build_seconds: float
    vectors: IndexFile
    rows: IndexFile
    lexical: LexicalPart | None = None

    @property
    def size_bytes(self) -> int:
        """What it takes in the bucket, and in memory when all of it is read."""
        return sum(file.size_bytes for file in self.files)

    @property
    def files(self) -> tuple[IndexFile, ...]:
        """All files of it."""
        return (self.vectors, self.rows, *(() if self.lexical is None else (self.lexical.file,)))

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        source, guard = self.source, self.guard
        return {
            "format": FORMAT,
            "index": self.index,
            "id": self.id,
            "created_at": self.created_at.isoformat(),
            "created_by": self.created_by,
            "model": {key: getattr(self.model, key) for key in Model.__slots__},
            "parameters": self.parameters.to_json(),
            "dimension": self.dimension,
            "count": self.count,
            "source": {
                "table": _named(source.table),
                "table_uuid": source.table_uuid,
                "column": source.column,
                "rows": list(source.rows),
                "snapshot_id": source.snapshot_id,
            },
            "guard": {
                "table": _named(guard.table),
                "table_uuid": guard.table_uuid,
                "columns": list(guard.columns),
                "keys": list(guard.keys),
                "snapshot_id": guard.snapshot_id,
            },
            "build_seconds": self.build_seconds,
            "vectors": asdict(self.vectors),
            "rows": asdict(self.rows),
            "lexical": None if self.lexical is None else asdict(self.lexical),
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Self:
        """What ``to_json`` gave.

        Raises:
            ValueError, TypeError, KeyError, InvalidRequest: It is something else, or of a later format.
        """
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}, expected {FORMAT}")
        source, guard, lexical = told["source"], told["guard"], told.get("lexical")
        return cls(
            index=told["index"],
            id=told["id"],
            created_at=datetime.fromisoformat(told["created_at"]),
            created_by=told["created_by"],
            model=Model(**told["model"]),
            parameters=IndexParameters.from_json(told["parameters"]),
            dimension=told["dimension"],
            count=told["count"],
            source=VectorColumn(
                TableName(*source["table"]),
                source["table_uuid"],
                source["column"],
                tuple(source["rows"]),
                source["snapshot_id"],
            ),
            guard=Guard(
                TableName(*guard["table"]),
                guard["table_uuid"],
                tuple(guard["columns"]),
                tuple(guard["keys"]),
                guard["snapshot_id"],
            ),
            build_seconds=told["build_seconds"],
            vectors=IndexFile(**told["vectors"]),
            rows=IndexFile(**told["rows"]),
            lexical=None
            if lexical is None
            else LexicalPart(lexical["column"], lexical["words"], IndexFile(**lexical["file"])),
        )


def _named(table: TableName) -> list[str]:
    return [table.catalog, table.schema, table.table]
