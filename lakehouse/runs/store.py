"""Where records of runs are kept: one small object each, so that every server tells of all runs.

``{PREFIX}/runs/{id}.json`` is written by the server that runs it, again and again until the end;
``{PREFIX}/runs/{id}.cancel`` by whoever wants it to stop. ``{PREFIX}/keys/{table uuid}/{key}.json`` tells
that the rows of a key are in a table, for when the snapshot that says the same has been expired; below
``{table uuid}-{generation}`` once all of its rows were replaced by others.
``{PREFIX}/syncs/{table uuid}/{sync}.json`` tells that some of a sync are. Records are only read by those who
ask for them: what keeps rows from coming twice are the snapshots and these notes, so old records can go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
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
_REQUEST = re.compile(r"([0-9a-f]{14}-[0-9a-f]{8})\.cancel")
# Whoever removes them has other things to do, too.
_MOST_REMOVED = 1000
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
        return f"{_begins(self._clock.now().timestamp())}-{self._clock.token()[-8:]}"

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

    def remove_old(self, age_s: float, keep: int, stopped: Callable[[], bool] = lambda: False) -> int:
        """Remove the records of runs that have been over for long, the oldest first, a thousand at a time.

        A run that goes on or waits keeps its record however old it is, and so does one whose record cannot
        be read. Of two servers that do this at once each removes what the other has left.

        Args:
            age_s: For how many seconds at least they have been over.
            keep: The newest so many stay in any case.
            stopped: Whether it has to end.

        Returns:
            How many were removed.

        Raises:
            StorageError: They could not be listed, read or removed; what was removed before stays so.
        """
        before_s = self._clock.now().timestamp() - age_s
        names = self._bucket.names(f"{self._prefix}/runs")
        runs = [match[1] for match in map(_NAME.fullmatch, names) if match]
        requests = {match[1] for match in map(_REQUEST.fullmatch, names) if match}
        spared = set(runs[max(0, len(runs) - keep) :])
        removed = 0
        # A request without a record is left of a run that ended just when it was asked to.
        for run_id in sorted({*runs, *requests} - spared):
            if run_id >= _begins(before_s) or removed == _MOST_REMOVED or stopped():
                break
            record = self._read(run_id)
            if record is None and run_id in runs:
                continue
            if record is not None and not record.was_over_at(before_s):
                continue
            if run_id in requests:
                self.forget_request(run_id)
            if record is not None:
                with suppress(ObjectNotFound):
                    self._bucket.delete(self._key(run_id))
                removed += 1
        return removed

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


def _begins(timestamp_s: float) -> str:
    """What the id of a run begins with that starts then."""
    return f"{max(0, int(timestamp_s * 1_000_000)):014x}"
