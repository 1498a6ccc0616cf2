"""Records of runs, without the runs."""

from __future__ import annotations

from lakehouse.clock import Clock
from lakehouse.runs import RunRecord, RunState, RunStore


def put_run(store: RunStore, clock: Clock, state: RunState = RunState.SUCCEEDED) -> str:
    """A record of a run that begins now and, if it is over, ends now."""
    now = clock.now()
    record = RunRecord(
        id=store.new_id(),
        state=state,
        table="lake.main.t",
        mode="append",
        system="file",
        source="a test",
        principal="ann",
        started_at=now,
        seen_at=now,
        ended_at=now if state.is_over else None,
    )
    store.put(record)
    return record.id
