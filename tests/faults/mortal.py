"""A lakehouse in this process whose process, as far as storage can tell, is killed at a step of its work."""

from __future__ import annotations

import os
import shutil

import pyarrow as pa
from faults.faulty_bucket import FaultyBucket, Killed

from lakehouse.config import Settings
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.errors import CommitStateUnknown, LakehouseError
from lakehouse.runtime import Lakehouse
from lakehouse.storage import open_local_bucket


class Lake:
    """A lakehouse over a bucket that may die."""

    def __init__(self, root, fails=None, **catalog):
        bucket = open_local_bucket("primary", root)
        self.bucket = FaultyBucket(bucket, fails or (lambda *_: None))
        settings = Settings(
            buckets=[{"name": "primary", "kind": "local", "path": root}],
            catalog={"refresh_ms": 0, **catalog},
            audit={"enabled": False},
            datasets={"enabled": False},
            journal={"enabled": False},
            engine={"threads": 1},
        )
        self.lakehouse = Lakehouse(settings, bucket=self.bucket)
        self.session = self.lakehouse.sessions.get("faults", self.lakehouse.anonymous)

    def scope(self):
        return Scope(self.session, self.session.sql_transaction, CallWatch())

    def run(self, sql):
        engine = self.lakehouse.engine
        analysis = engine.gate.analyse(sql)
        if analysis.detail.get("returning"):
            engine.changes.modify(analysis, self.scope())
        else:
            engine.changes.run(analysis, self.scope())

    def rows(self, sql="select * from t order by all"):
        engine = self.lakehouse.engine
        plan = engine.plan(engine.gate.analyse(sql), self.session)
        return pa.Table.from_batches(engine.open(plan, self.session, CallWatch()), plan.schema).to_pylist()

    def close(self):
        try:
            self.lakehouse.close()
        except (Killed, LakehouseError):
            self.lakehouse.engine.close()


class Death:
    """Kills a process at its n-th change of storage; what it only reads leaves nothing to be found.

    Of the many small writes of one file the second stands for all: they leave a part of a file that nothing
    refers to.
    """

    def __init__(self, last):
        self._left = last
        self._awaited = self._came = False
        self._writes = 0

    def __call__(self, _, what):
        if self._awaited and what in ("put", "put_new", "open", "write", "close", "delete"):
            self._writes = self._writes + 1 if what == "write" else 0
            if what != "write" or self._writes == 2:
                self._left -= 1
                self._came = self._came or self._left == 0
        return "dead" if self._came else None

    def strikes(self, run, statements):
        """Run statements; gives whether all were answered before death came."""
        self._awaited = True
        try:
            for sql in statements:
                run(sql)
        except (Killed, CommitStateUnknown):
            return False
        finally:
            self._awaited = False
        return not self._came


def copy(source, target):
    """Copy a bucket, by hard links: objects are immutable, and hints replaced as a whole."""
    shutil.copytree(source, target, copy_function=os.link)
