"""The load of test_load for long, with a look for leaks: ``make soak SOAK_SECONDS=900``.

The server is sampled all the time. What it holds may rise while caches fill, so the first third does not
count; over the rest a straight line is laid through the samples of each measure, and it fails where that line
rises by more than a tolerance. At the end all clients go, and what the server holds must go too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from faults.load import Load, Sample

# How much a measure may rise over the part that counts. Memory is what is left to an allocator's whim.
_TOLERANCE = {
    "rss_mib": 150.0,
    "duckdb_mib": 50.0,
    "arrow_mib": 50.0,
    "threads": 40.0,
    "files": 40.0,
    "sessions": 60.0,
    "planned": 200.0,
    "transactions": 20.0,
    "temporary_files": 5.0,
}


@dataclass(frozen=True)
class Trend:
    """How one measure went: ``rise`` is that of the line through the samples that count."""

    name: str
    first: float
    low: float
    high: float
    last: float
    rise: float
    tolerance: float

    @property
    def leaks(self) -> bool:
        """Whether it rises by more than is tolerated."""
        return self.rise > self.tolerance


def trends(samples: list[Sample]) -> list[Trend]:
    """The trend of each measure."""
    counting = samples[len(samples) // 3 :]
    times = [sample.at_s for sample in counting]
    found = []
    for name, tolerance in _TOLERANCE.items():
        values = [sample[name] for sample in counting]
        slope = statistics.linear_regression(times, values).slope
        rise = slope * (times[-1] - times[0])
        found.append(Trend(name, samples[0][name], min(values), max(values), values[-1], rise, tolerance))
    return found


def show(found: list[Trend], before: Sample, after: Sample) -> None:
    """Print the table."""
    names = ("before", "low", "high", "last", "rise", "tolerated", "after")
    print(f"{'':16}" + "".join(f"{name:>12}" for name in names))
    for t in found:
        values = (before[t.name], t.low, t.high, t.last, t.rise, t.tolerance, after[t.name])
        print(
            f"{t.name:16}" + "".join(f"{value:12.1f}" for value in values) + ("   LEAKS" if t.leaks else "")
        )


def soak(seconds: float, seed: int) -> list[str]:
    """Run the load, print what was seen and give what is wrong, one line each."""
    with tempfile.TemporaryDirectory() as directory:
        load = Load(Path(directory) / "server")
        try:
            before = load.settle(threads=1000)
            outcome = load.run(seconds, seed, every_s=2.0)
            after = load.settle(threads=before["threads"] + 15)
            load.victim.check_honest()
            status = load.victim.server.stop()
        finally:
            if load.victim.server.process.poll() is None:
                load.victim.server.kill()
    found = trends(outcome.samples)
    print(f"seed {seed}, {seconds:.0f} s, {len(outcome.samples)} samples")
    print(", ".join(f"{name}: {count}" for name, count in sorted(outcome.counts.items())))
    show(found, before, after)
    wrong = [f"{t.name} rises by {t.rise:.1f}, tolerated are {t.tolerance}" for t in found if t.leaks]
    wrong += [f"an honest client failed: {failure}" for failure in outcome.failures]
    if outcome.stuck:
        wrong.append(f"{outcome.stuck} clients hang")
    if status:
        wrong.append(f"the server ended with status {status}")
    for name, more in (
        ("sessions", 0),
        ("transactions", 0),
        ("threads", 15),
        ("files", 30),
        ("temporary_files", 5),
    ):
        if after[name] > before[name] + more:
            wrong.append(f"{name}: {after[name]} at the end, {before[name]} at the start")
    return wrong


def main() -> None:
    """Parse the command line, soak, and fail where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=20131107)
    arguments = parser.parse_args()
    wrong = soak(arguments.seconds, arguments.seed)
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
