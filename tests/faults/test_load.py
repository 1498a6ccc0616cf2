"""Two hundred clients at once, a tenth of them slow, vanishing or hostile: honest ones notice nothing.

LAKEHOUSE_LOAD_SECONDS is how long; ``make soak`` runs the same load for much longer and looks for leaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from faults.load import CLIENTS, Load

SECONDS = float(os.environ.get("LAKEHOUSE_LOAD_SECONDS", "15"))
SEED = int(os.environ.get("LAKEHOUSE_FUZZ_SEED", "20131107"))


@pytest.fixture
def load(tmp_path) -> Iterator[Load]:
    started = Load(tmp_path / "server")
    yield started
    if started.victim.server.process.poll() is None:
        started.victim.server.kill()


@pytest.mark.timeout(SECONDS * 3 + 400)
def test_no_honest_statement_fails_and_nothing_is_left_behind(load):
    assert sum(CLIENTS.values()) == 200
    load.victim.check_honest()
    before = load.settle(threads=1000)
    outcome = load.run(SECONDS, SEED)
    print(dict(outcome.counts))
    peak = {name: max(s[name] for s in outcome.samples) for name in before.values}
    print("before", before.values, "\npeak", peak)
    assert outcome.failures == []
    assert outcome.stuck == 0
    kinds = ("aggregate", "stream", "bind", "temporary", "metadata", "load")
    assert all(outcome.counts[f"honest {kind}"] > 0 for kind in kinds), outcome.counts
    assert outcome.counts["hostile case"] > 0
    assert outcome.counts["slow batch"] > 0
    assert outcome.counts["vanishing processes"] > 0
    assert peak["threads"] < before["threads"] + 700  # limits.concurrent_calls and what gRPC adds
    assert peak["rss_mib"] < before["rss_mib"] + 2500

    after = load.settle(threads=before["threads"] + 15)
    print("after", after.values)
    assert after["sessions"] == after["running"] == after["transactions"] == after["planned"] == 0
    assert after["threads"] <= before["threads"] + 15
    assert after["files"] <= before["files"] + 30
    assert after["rss_mib"] < before["rss_mib"] + 900
    load.victim.check_honest()
    assert load.victim.server.stop() == 0
