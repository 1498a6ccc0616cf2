"""A load of honest, slow, vanishing and hostile clients, and what the server holds meanwhile and after."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from faults.victim import Victim, start_victim
from ports import free_ports

MIB = 1 << 20
_TESTS = Path(__file__).parents[1]
HONEST_PROCESSES = 3
CLIENTS = {"honest": 180, "slow": 7, "vanishing": 7, "hostile": 6}
IDLE_SECONDS = 30
_CONFIG = """
[limits]
statement_timeout_seconds = 30
concurrent_statements = 32
queued_statements = 1000
queue_seconds = 60
concurrent_calls = 1000
[engine]
memory_limit = "1GB"
spill_directory = "{spill}"
[session]
idle_seconds = {idle}
max_sessions = 3000
max_sessions_per_principal = 3000
[ops]
http_port = {port}
"""
_METRICS = {
    "duckdb_mib": r"^lakehouse_engine_memory_bytes\{[^}]*\} (\S+)",
    "arrow_mib": r"^lakehouse_arrow_memory_bytes (\S+)",
    "sessions": r"^lakehouse_sessions (\S+)",
    "transactions": r"^lakehouse_transactions (\S+)",
    "planned": r"^lakehouse_statements_planned (\S+)",
    "running": r"^lakehouse_statements_running (\S+)",
}


@dataclass(frozen=True)
class Sample:
    """What the server held at one moment."""

    at_s: float
    values: dict[str, float]

    def __getitem__(self, name: str) -> float:
        return self.values[name]


@dataclass
class Outcome:
    """What the clients of a load report."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    stuck: int = 0


class Load:
    """A server of its own and the clients that use it."""

    def __init__(self, directory: Path) -> None:
        (self._ops_port,) = free_ports(1)
        self._spill = directory.with_name("spill")
        self._spill.mkdir()
        config = _CONFIG.format(idle=IDLE_SECONDS, port=self._ops_port, spill=self._spill)
        self.victim: Victim = start_victim(directory, config)
        self._begun = time.monotonic()

    def sample(self) -> Sample:
        """What the server holds now."""
        process = self.victim.process
        url = f"http://127.0.0.1:{self._ops_port}/metrics"
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
        values: dict[str, float] = {}
        for name, pattern in _METRICS.items():
            numbers = [float(number) for number in re.findall(pattern, text, re.MULTILINE)]
            assert numbers, f"no metric {pattern}"
            values[name] = sum(numbers) / (MIB if name.endswith("_mib") else 1)
        with process.oneshot():
            values["rss_mib"] = process.memory_info().rss / MIB
            values["threads"] = process.num_threads()
            values["files"] = process.num_fds()
        values["temporary_files"] = (
            sum(1 for f in self._spill.rglob("*") if f.is_file()) if self._spill.exists() else 0
        )
        values["connections"] = sum(
            c.status == psutil.CONN_ESTABLISHED for c in process.net_connections("tcp")
        )
        return Sample(time.monotonic() - self._begun, values)

    def run(self, seconds: float, seed: int, every_s: float = 1.0) -> Outcome:
        """Let all clients work for so long, and sample the server meanwhile."""
        outcome, lock = Outcome(), threading.Lock()
        honest = CLIENTS["honest"] // HONEST_PROCESSES
        jobs = [("honest", honest, f"{seed}{part}") for part in range(HONEST_PROCESSES)]
        jobs += [(kind, CLIENTS[kind], str(seed)) for kind in ("slow", "vanishing", "hostile")]
        stop_at = time.monotonic() + seconds

        def job(kind: str, count: int, own_seed: str) -> None:
            again = 0
            while time.monotonic() < stop_at:
                report = self._clients(
                    kind, count, max(1.0, stop_at - time.monotonic()), f"{own_seed}{again}"
                )
                again += 1
                with lock:
                    outcome.counts[f"{kind} processes"] += 1
                    if report:
                        outcome.counts.update({f"{kind} {k}": n for k, n in report["counts"].items()})
                        outcome.stuck += report["stuck"]
                        outcome.failures += report["failures"]
                if kind != "vanishing":
                    return

        threads = [threading.Thread(target=job, args=arguments) for arguments in jobs]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert self.victim.server.process.poll() is None, "the server died under load"
            outcome.samples.append(self.sample())
            time.sleep(every_s)
        return outcome

    def _clients(self, kind: str, count: int, seconds: float, seed: str) -> dict[str, object] | None:
        program = Path(__file__).with_name("load_clients.py")
        done = subprocess.run(
            [sys.executable, str(program), kind, str(count), str(self.victim.port), str(seconds), seed],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(_TESTS), str(_TESTS / "flight")))},
            timeout=seconds + 300,
        )
        if kind == "vanishing":
            return None
        assert done.returncode == 0, done.stderr[-2000:]
        found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return found

    def settle(self, threads: float, seconds: float = 90) -> Sample:
        """Wait until the clients that are gone have left nothing; gives the last sample."""
        deadline = time.monotonic() + seconds
        while True:
            sample = self.sample()
            held = sample["sessions"] + sample["transactions"] + sample["running"] + sample["planned"]
            if (held == 0 and sample["threads"] <= threads) or time.monotonic() > deadline:
                return sample
            time.sleep(1)
