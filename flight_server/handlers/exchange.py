"""DoExchange: queries for a vector index stream in, what they find streams out.

The command of the descriptor is JSON: ``{"exchange": "vectors.search", "index": "notes", "k": 10}``. Each
message of results has in its metadata how many queries are answered now: ``{"queries": 64, …}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flight_server.context import CallContext
from flight_server.execution import Recording
from flight_server.misfit import misfit
from lakehouse.engine.result import split
from lakehouse.errors import NotSupported
from lakehouse.vectors.faiss_index import MOST_RESULTS
from lakehouse.vectors.guarded_indexes import GuardedIndexes
from lakehouse.vectors.query_stream import Answer, QueryStream, Wanted


class ExchangeCommand(BaseModel):
    """What is exchanged."""

    model_config = ConfigDict(extra="forbid")

    exchange: Literal["vectors.search"]
    index: str = Field(min_length=1)
    profile: str | None = None
    k: int | None = Field(default=None, ge=1, le=MOST_RESULTS)
    ef: int | None = None
    filter: str = ""


@dataclass(frozen=True, slots=True)
class Replies:
    """How answers are sent.

    Attributes:
        begin: Told their columns, once.
        send: Given each batch of them, and what is told with it; waits for a client that is behind.
    """

    begin: Callable[[pa.Schema], None]
    send: Callable[[pa.RecordBatch, bytes | None], None]


def answer(
    ctx: CallContext, command: bytes, queries: pa.Schema, batches: Iterable[pa.RecordBatch], replies: Replies
) -> None:
    """Answer queries as they come: the next are taken once the answers to those before have been sent.

    Args:
        ctx: The call.
        command: The command of its descriptor.
        queries: The columns of what comes.
        batches: What comes.
        replies: How answers are sent.

    Raises:
        NotSupported: The command is none that there is an exchange for.
        InvalidRequest: The command, or what comes, is not of the form expected.
        LakehouseError: There is no such index for the caller.
    """
    wanted = _command(command)
    lakehouse, session = ctx.lakehouse, ctx.session
    guarded = GuardedIndexes(lakehouse.vectors, lakehouse.engine, session, wanted.profile)
    # What is activated meanwhile does not matter to this stream.
    index = guarded.named(wanted.index)
    k = wanted.k or guarded.usual_k(index)
    with Recording(ctx, f"VECTORS EXCHANGE {index}", "vectors") as recording:
        record, watched = recording.record, recording.watch()
        found = lakehouse.sql_search.columns(index, session)
        watched.note_tables([found.table])

        def check() -> None:
            ctx.check_cancelled()
            record.check_stop()

        stream = QueryStream(
            guarded,
            lakehouse.ai,
            Wanted(index, k, wanted.ef, wanted.filter),
            queries,
            found.schema,
            watched,
            check,
        )
        replies.begin(stream.schema)
        rows = 0
        for batch in batches:
            for each in stream.answers(batch):
                rows += each.rows.num_rows
                record.rows = rows
                for part, told in _parts(each, lakehouse.settings.engine.max_message_bytes):
                    replies.send(part, told)


def _parts(answered: Answer, most_bytes: int) -> Iterator[tuple[pa.RecordBatch, bytes | None]]:
    """An answer in messages of bounded size, the last of which tells how far the queries are answered."""
    told = {"queries": answered.queries, "generation": answered.generation}
    if answered.way is not None:
        told["way"] = str(answered.way)
    whole = answered.rows.combine_chunks().to_batches() or [_empty(answered.rows.schema)]
    parts = [part for batch in whole for part in split(batch, most_bytes)]
    for part in parts[:-1]:
        yield part, None
    yield parts[-1], json.dumps(told).encode()


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def _command(command: bytes) -> ExchangeCommand:
    try:
        return ExchangeCommand.model_validate_json(command)
    except ValidationError as error:
        if b'"exchange"' not in command:
            raise NotSupported(
                "there is no exchange for this command", '{"exchange": "vectors.search", "index": …}'
            ) from None
        raise misfit(error, ExchangeCommand, "the command of the exchange", "command") from error
