"""Ingests that are run again and again, each time for what is new: what a table remembers of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import structlog

from lakehouse.catalog import Table
from lakehouse.catalog.ingest_mark import all_sync_states, sync_states
from lakehouse.errors import InvalidRequest
from lakehouse.ingest.sources.incremental import At, Incremental

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """That only what is new is to come.

    Attributes:
        name: Tells the syncs of a table apart; empty for what the source is called.
        reset: Whether everything is to come, whatever came before.
    """

    name: str = ""
    reset: bool = False


@dataclass(frozen=True, slots=True)
class SyncState:
    """How far a sync has got in a table.

    Attributes:
        name: What it is called.
        definition: What it reads.
        at: How far it was read.
        schema: Which version of its schema the table had then.
        text: All of it, as the table keeps it; empty if it keeps nothing.
    """

    name: str
    definition: Mapping[str, str] = field(default_factory=dict)
    at: At | None = None
    schema: int = 0
    text: str = ""

    @property
    def id(self) -> str:
        """What a table keeps it under."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]

    @classmethod
    def of(cls, name: str, table: Table | None) -> Self:
        """What a table remembers.

        Raises:
            InvalidRequest: It cannot be read.
        """
        found = cls(name)
        text = sync_states(table.metadata).get(found.id, "") if table is not None else ""
        if not text:
            return found
        try:
            return cls._parsed(text)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"what table '{table and table.name}' remembers of sync '{name}' cannot be read",
                "with reset = true everything comes again",
            ) from error

    def all_of(self, table: Table) -> list[At]:
        """Every state that the table may be taken back to."""
        found = []
        for text in all_sync_states(table.metadata, self.id):
            try:
                at = self._parsed(text).at
            except (ValueError, KeyError, TypeError):
                _log.warning("sync_state_unreadable", table=str(table.name), sync=self.name)
            else:
                found.append(at or {})
        return found

    def check(self, source: Incremental) -> None:
        """Refuse to go on with another source.

        Raises:
            InvalidRequest: It is another one.
        """
        if self.at is None or dict(self.definition) == dict(source.definition):
            return
        names = sorted({*self.definition, *source.definition})
        differing = [n for n in names if self.definition.get(n) != source.definition.get(n)]
        was, now = (
            ", ".join(f"{n} = {each.get(n, '')!r}" for n in differing)
            for each in (self.definition, source.definition)
        )
        raise InvalidRequest(
            f"sync '{self.name}' was made with {was}, not with {now}",
            "give the sync another name, or say reset = true to bring everything again",
        )

    def after(self, source: Incremental, at: At, schema: int, run: str) -> str:
        """What the table is to remember when a run has brought what is new."""
        state = {
            "name": self.name,
            "definition": dict(source.definition),
            "at": dict(at),
            "schema": schema,
            "run": run,
        }
        return json.dumps(state, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def _parsed(cls, text: str) -> Self:
        found = json.loads(text)
        definition = {str(name): str(value) for name, value in found["definition"].items()}
        at = {str(name): str(value) for name, value in found["at"].items()}
        return cls(str(found["name"]), definition, at, int(found["schema"]), text)
