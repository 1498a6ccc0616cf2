"""Requests at random against a real server, for a bounded time, from a seed that is told on failure.

LAKEHOUSE_FUZZ_SECONDS is the time of all families together, LAKEHOUSE_FUZZ_SEED another seed, and
LAKEHOUSE_FUZZ_FIRST the number of the case to begin with, to see a failure again.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator

import pytest
from faults.corpus import FAMILIES, case
from faults.raw_flight import RawFlight
from faults.victim import CONFIG, Misbehaved, Victim, close_session, start_victim, wait_until

SEED = int(os.environ.get("LAKEHOUSE_FUZZ_SEED", "20131107"))
SECONDS = float(os.environ.get("LAKEHOUSE_FUZZ_SECONDS", "20"))
FIRST = int(os.environ.get("LAKEHOUSE_FUZZ_FIRST", "0"))
WORKERS = 3
DEADLINE_S = 30
MIB = 1 << 20


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    started = start_victim(tmp_path_factory.mktemp("fuzz") / "server", CONFIG)
    yield started
    if started.server.process.poll() is None:
        assert started.server.stop() == 0, "".join(started.server.log[-20:])


def attack(victim: Victim, family: str, number: int, client: RawFlight) -> None:
    """Send one case and look at the answer."""
    made = case(SEED, family, number)
    answer = client.call(made.method, made.requests, timeout_s=DEADLINE_S, most=20)
    foreign = answer.status in ("INTERNAL", "RESOURCE_EXHAUSTED") and not answer.text.startswith("[")
    if foreign and victim.server.process.poll() is None:
        return  # gRPC's own: the message is not the protobuf message it should be
    name = f"LAKEHOUSE_FUZZ_SEED={SEED} LAKEHOUSE_FUZZ_FIRST={number} {family} {made.method}"
    victim.check(answer, name)


@pytest.mark.timeout(SECONDS * 2 + 300)
@pytest.mark.parametrize("family", FAMILIES)
def test_requests_at_random_do_no_harm(victim, family):
    if victim.server.process.poll() is not None:
        pytest.fail("the server did not survive an earlier family")
    numbers, failures = itertools.count(FIRST), []
    stop_at = time.monotonic() + SECONDS / len(FAMILIES)

    def work() -> None:
        while time.monotonic() < stop_at and not failures:
            with RawFlight(victim.port) as client:
                for number in itertools.islice(numbers, 50):
                    if time.monotonic() > stop_at or failures:
                        break
                    try:
                        attack(victim, family, number, client)
                    except Misbehaved as error:
                        failures.append(error)
                if not failures:
                    close_session(client)

    workers = [threading.Thread(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    print(f"seed {SEED}: {family}, {next(numbers) - FIRST} cases")
    victim.check_honest()


def test_threads_and_memory_come_back(victim):
    if victim.server.process.poll() is not None:
        pytest.fail("the server did not survive")
    wait_until(lambda: victim.process.num_threads() < 60, lambda: f"{victim.process.num_threads()} threads")
    wait_until(
        lambda: victim.process.memory_info().rss < 1500 * MIB,
        lambda: f"{victim.process.memory_info().rss / MIB:.0f} MiB",
    )
