"""The positions of deleted rows as DuckDB reads them: a small local Parquet file for each data file."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.catalog.delete_files import Held, deleted_rows
from lakehouse.clock import Clock
from lakehouse.errors import StorageError
from lakehouse.types import DataFileRef

# Above so many files those go that nobody asked for in an hour: no statement runs that long.
_MOST_FILES = 20_000
_KEPT_S = 3600.0
_SCHEMA = pa.schema([pa.field("file_path", pa.string()), pa.field("pos", pa.int64())])


class PositionFiles:
    """Makes and remembers them. Which rows of a data file its delete files mean never changes.

    Args:
        directory: Where they are kept; DuckDB may read it.
        clock: Tells how long ago one was asked for.
        held: Makes files readable for the length of a ``with``.

    Attributes:
        none: A file without positions.
    """

    def __init__(self, directory: Path, clock: Clock, held: Held) -> None:
        self._held = held
        self._directory = directory
        self._clock = clock
        self._lock = threading.Lock()
        self._used: OrderedDict[str, float] = OrderedDict()
        self._without: set[str] = set()
        self.none = self._write("none", "", np.zeros(0, np.int64))

    def paths(self, files: Sequence[DataFileRef]) -> tuple[str, ...]:
        """Files with the positions of all deleted rows of some data files.

        Raises:
            NotSupported, StorageError: A delete file cannot be read.
        """
        names = {_name(file): file for file in files if file.deletes}
        with self._lock:
            missing = [name for name in names if name not in self._used and name not in self._without]
        for file, positions in deleted_rows([names[name] for name in missing], self._held):
            name = _name(file)
            if len(positions):
                self._write(name, file.path, positions)
            else:
                with self._lock:
                    self._without.add(name)
        with self._lock:
            wanted = [name for name in names if name not in self._without]
            for name in wanted:
                self._used[name] = self._clock.monotonic()
                self._used.move_to_end(name)
            self._evict()
        return tuple(str(self._path(name)) for name in wanted)

    def _write(self, name: str, path: str, positions: np.ndarray) -> str:
        rows = pa.table([pa.repeat(path, len(positions)), pa.array(positions, pa.int64())], schema=_SCHEMA)
        target = self._path(name)
        partial = target.with_suffix(f".{threading.get_ident()}")
        try:
            pq.write_table(rows, partial)
            partial.replace(target)
        except OSError as error:
            raise StorageError(
                f"the positions of deleted rows could not be kept: {error.strerror}",
                "make room on the disk of engine.spill_directory",
            ) from error
        return str(target)

    def _evict(self) -> None:
        while len(self._used) > _MOST_FILES:
            name, used = next(iter(self._used.items()))
            if used + _KEPT_S > self._clock.monotonic():
                return
            del self._used[name]
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.parquet"


def _name(file: DataFileRef) -> str:
    return sha256(repr((file.uri, file.deletes)).encode()).hexdigest()[:32]
