"""Real processes, killed with SIGKILL at random moments."""

from __future__ import annotations

import os

import pytest
from faults import kill_random, killing

KILLS = int(os.environ.get("LAKEHOUSE_KILLS", "12"))
SEED = 20131107


@pytest.mark.timeout(120 + 10 * KILLS)
# ADBC closes cursors twice whose server has gone.
@pytest.mark.filterwarnings("ignore:Failed to close cursor:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_client_was_answered_survives_and_the_rest_is_whole_or_absent(tmp_path):
    outcomes = killing.run(kill_random.Trial, tmp_path / "lake", KILLS, SEED, print).outcomes
    assert outcomes["answered"] + outcomes["whole"] + outcomes["absent"] == KILLS
    assert outcomes["answered"] < KILLS, "no statement was met by death"
