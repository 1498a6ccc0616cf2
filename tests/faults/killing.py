"""What kills time and again, as often as the command line says, and what looks for files that were left."""

from __future__ import annotations

import argparse
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lakehouse.catalog import IcebergCatalog, Table

_OLD_S = 86_400


class KillTrial(Protocol):
    """Something that is killed time and again; ``outcomes`` counts what was met."""

    outcomes: Counter[str]

    def kill_once(self) -> None: ...
    def check_at_end(self) -> None: ...
    def close(self) -> None: ...

    def told(self) -> str:
        """What was met so far."""
        return str(dict(self.outcomes.most_common()))


T = TypeVar("T", bound=KillTrial)


def run(
    start: Callable[[Path, int], T], directory: Path, kills: int, seed: int, report: Callable[[str], None]
) -> T:
    """Kill so many times what ``start`` makes in a directory, with a seed."""
    trial = start(directory, seed)
    try:
        for number in range(kills):
            try:
                trial.kill_once()
            except BaseException:
                report(f"kill {number} of seed {seed}")
                raise
            if number % 10 == 9:
                report(f"{number + 1} kills: {trial.told()}")
        trial.check_at_end()
        return trial
    finally:
        trial.close()


def main(start: Callable[[Path, int], KillTrial], kills: int) -> None:
    """Kill as often as the command line says, or else so many times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    report = partial(print, flush=True)
    report(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as directory:
        trial = run(start, Path(directory) / "lake", arguments.kills, arguments.seed, report)
    report(f"all well after {arguments.kills} kills: {trial.told()}")


def grow_old(root: Path) -> None:
    """Make every object look as if it had been there for a day."""
    then = time.time() - _OLD_S
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def stored(place: Path) -> set[str]:
    """All files of a table but its versions and what serves to find them."""
    found = {str(p) for p in place.rglob("*") if p.is_file()}
    kept = re.compile(r"/metadata/(v\d+\.metadata\.json|version-hint\.text|expired/\w+\.json)$")
    return {path for path in found if not kept.search(path)}


class References:
    """The files that tables refer to; what is in one file never changes."""

    def __init__(self) -> None:
        self._read: dict[str, list[Any]] = {}

    def of(self, catalog: IcebergCatalog, table: Table) -> set[str]:
        """Paths of manifest lists, manifests and live data files of all snapshots."""
        io = catalog.planner.io
        found = set()
        for snapshot in table.metadata.snapshots:
            lists = snapshot.manifest_list
            found.add(lists)
            for manifest in self._once(lists, partial(snapshot.manifests, io)):
                path = manifest.manifest_path
                found.add(path)
                entries = self._once(path, partial(manifest.fetch_manifest_entry, io, discard_deleted=True))
                found.update(entry.data_file.file_path for entry in entries)
        return {catalog.bucket.local_path(catalog.bucket.key_of(uri)) for uri in found}

    def _once(self, path: str, read: Callable[[], list[Any]]) -> list[Any]:
        if path not in self._read:
            self._read[path] = read()
        return self._read[path]
