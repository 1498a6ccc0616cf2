"""Where records of runs are kept: one small object each, so that every server tells of all runs.

``{PREFIX}/runs/{id}.json`` is written by the server that runs it, again and again until the end;
``{PREFIX}/runs/{id}.cancel`` by whoever wants it to stop. ``{PREFIX}/keys/{table uuid}/{key}.json`` tells
that the rows of a key are in a table, for when the snapshot that says the same has been expired; below
``{table uuid}-{generation}`` once all of its rows were replaced by others.
``{PREFIX}/syncs/{table uuid}/{sync}.json`` tells that some of a sync are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress

import structlog
from pydantic import ValidationError

from lakehouse.clock import Clock
from lakehouse.errors import ObjectAlreadyExists, ObjectNotFound, RunNotFound
from lakehouse.runs.record import RunRecord
from lakehouse.storage import Bucket

PREFIX = "_ingest"
LOST_AFTER_S = 60.0
_NAME = re.compile(r"([0-9a-f]{14}-[0-9a-f]{8})\.json")
_log = structlog.get_logger()


class RunStore:
    """The records of all runs of a lake.

    Args:
        bucket: Where they are kept.
        clock: Source of time.
        prefix: Below which keys.
        listed_by: The action that lists them, for messages.
    """

    def __init__(
        self, bucket: Bucket, clock: Clock, prefix: str = PREFIX, listed_by: str = "ingest.list"
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._listed_by = listed_by
        self._clock = clock

    def new_id(self) -> str:
        """The id of a run that starts now."""
        microseconds = int(self._clock.now().timestamp() * 1_000_000)
        return f"{microseconds:014x}-{self._clock.token()[-8:]}"

    def put(self, record: RunRecord) -> None:
        """Keep a record in place of the former one of the same run.

        Raises:
            StorageError: It could not be written.
        """
        content = record.model_dump_json(exclude_defaults=True).encode()
        self._bucket.put(self._key(record.id), content, durable=record.state.is_over)

    def get(self, run_id: str) -> RunRecord:
        """The record of a run.

        Raises:
            RunNotFound: There is none of that id.
            StorageError: It could not be read.
        """
        found = self._read(run_id) if _NAME.fullmatch(f"{run_id}.json") else None
        if found is None:
            raise RunNotFound(
                f"there is no run {run_id!r}", f"{self._listed_by} tells of those that there are"
            )
        return found

    def newest(self) -> Iterator[RunRecord]:
        """All records, the newest first; read one by one.

        Raises:
            StorageError: They could not be read.
        """
        for name in reversed(self._bucket.names(f"{self._prefix}/runs")):
            match = _NAME.fullmatch(name)
            found = self._read(match[1]) if match else None
            if found is not None:
                yield found

    def ask_to_stop(self, run_id: str) -> None:
        """Ask the server that runs it to cancel a run.

        Raises:
            RunNotFound: There is none of that id.
        """
        self.get(run_id)
        self._bucket.put(f"{self._prefix}/runs/{run_id}.cancel", b"")

    def is_to_stop(self, run_id: str) -> bool:
        """Whether somebody asked a run to stop."""
        return self._bucket.exists(f"{self._prefix}/runs/{run_id}.cancel")

    def forget_request(self, run_id: str) -> None:
        """Remove what asked a run to stop that is over."""
        with suppress(ObjectNotFound):
            self._bucket.delete(f"{self._prefix}/runs/{run_id}.cancel")

    def note_key(self, table: str, key: str, run_id: str, snapshot_id: int | None) -> None:
        """Keep that the rows of a key are in a table."""
        content = json.dumps({"run": run_id, "snapshot_id": snapshot_id}).encode()
        with suppress(ObjectAlreadyExists):
            self._bucket.put_new(f"{self._prefix}/keys/{table}/{key}.json", content)

    def noted_key(self, table: str, key: str) -> tuple[str, int | None] | None:
        """The run and the snapshot that brought the rows of a key, if they are known to be in a table."""
        try:
            found = json.loads(self._bucket.get(f"{self._prefix}/keys/{table}/{key}.json"))
            return str(found["run"]), found["snapshot_id"]
        except ObjectNotFound:
            return None
        except (ValueError, KeyError, TypeError):
            _log.warning("ingest_key_unreadable", key=key)
            return None

    def note_sync(self, table_uuid: str, sync: str) -> None:
        """Keep that a sync brings rows into a table.

        Raises:
            StorageError: It could not be kept.
        """
        with suppress(ObjectAlreadyExists):
            self._bucket.put_new(f"{self._prefix}/syncs/{table_uuid}/{sync}.json", b"{}")

    def is_synced(self, table_uuid: str, sync: str) -> bool:
        """Whether a sync ever brought rows into a table, or was about to."""
        return self._bucket.exists(f"{self._prefix}/syncs/{table_uuid}/{sync}.json")

    def _read(self, run_id: str) -> RunRecord | None:
        try:
            record = RunRecord.model_validate_json(self._bucket.get(self._key(run_id)))
        except ObjectNotFound:
            return None
        except ValidationError:
            _log.warning("run_unreadable", run=run_id)
            return None
        return record.as_seen(self._clock.now(), LOST_AFTER_S)

    def _key(self, run_id: str) -> str:
        return f"{self._prefix}/runs/{run_id}.json"
