"""Real processes, killed with SIGKILL in the middle of ingests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults import kill_ingest, killing

KILLS = int(os.environ.get("LAKEHOUSE_INGEST_KILLS", str(len(kill_ingest.KINDS))))
SEED = 20131107


@pytest.mark.timeout(120 + 20 * KILLS)
def test_every_row_comes_once_whoever_dies_meanwhile(tmp_path: Path) -> None:
    trial = killing.run(kill_ingest.Trial, tmp_path / "lake", KILLS, SEED, print)
    assert trial.runs["succeeded"] >= KILLS, "each request succeeded in the end"
    assert trial.outcomes["succeeded"] < sum(trial.outcomes.values()), "no ingest was met by death"
