"""What callers may say of rows and files that they bring, whichever way these come."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lakehouse.ingest.sources.file_options import FileOptions
from lakehouse.ingest.sources.source import OnError
from lakehouse.runs import Evolve, IngestMode, IngestRequest, SyncRequest
from lakehouse.types import TableName


class IngestOptions(BaseModel):
    """What is to become of the table, and of rows that do not fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: IngestMode = Field(
        default=IngestMode.APPEND,
        description="append makes the table where there is none; upsert replaces rows of the same key",
    )
    keys: tuple[str, ...] = Field(
        default=(), description="columns that tell rows apart, for upsert; the primary key if left out"
    )
    key: str | None = Field(
        default=None,
        description="runs of the same key bring the same rows, and only the first does anything; the content "
        "of files if left out, and with an empty one every run brings its rows",
    )
    evolve: Evolve = Field(
        default=Evolve.ADD, description="how the table may change: add columns, widen them too, or strict"
    )

    def request(
        self, table: TableName, on_error: OnError = OnError.FAIL, sync: SyncRequest | None = None
    ) -> IngestRequest:
        """The ingest into a table that this asks for; with ``sync`` only of what is new."""
        return IngestRequest(
            table, self.mode, on_error, keys=self.keys, key=self.key, evolve=self.evolve, sync=sync
        )


class FileIngestOptions(IngestOptions):
    """The same, and how files are to be read; what is left out is found out."""

    on_error: OnError = Field(
        default=OnError.FAIL,
        description="fail stops at the first row that does not fit; reject keeps such rows in TABLE_rejects",
    )
    types: dict[str, str] = Field(
        default_factory=dict, description='types that are not to be inferred: {"day": "DATE(%d/%m/%Y)"}'
    )
    format: str = Field(default="", description="csv, jsonl, json, parquet, arrow, avro, orc or excel")
    delimiter: str = Field(default="", description="between fields of delimited text")
    quote: str | None = Field(default=None, description="around fields; empty for none")
    encoding: str = Field(default="", description="of text, as Python names it")
    header: bool | None = Field(default=None, description="whether the first row names the columns")
    null_values: tuple[str, ...] = Field(default=(), description="texts that stand for NULL, unquoted")
    sheet: str = Field(default="", description="of a workbook; the first if left out")

    @property
    def reading(self) -> FileOptions:
        """How files are to be read."""
        return FileOptions(
            self.format,
            self.delimiter,
            self.quote,
            self.encoding,
            self.header,
            self.types,
            self.null_values,
            self.sheet,
        )


class PutOptions(FileIngestOptions):
    """What a client may say of what it puts."""

    file: str = Field(default="", description="the name of the file whose bytes come; empty where rows come")
    preview: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="store nothing, tell what would become of the file, and give so many rows of it",
    )
    end_follows: bool = Field(
        default=False, description='the last message says {"end": true}; without that nothing is stored'
    )

    @model_validator(mode="after")
    def _previewed_file(self) -> Self:
        if self.preview is not None and not self.file:
            raise ValueError("a preview is of a file: rows that come have their columns already")
        return self
