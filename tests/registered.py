"""A lake with a bucket of somebody else's Parquet objects, for tests."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from s3 import S3

from lakehouse.access.principal import Principal
from lakehouse.config import Settings
from lakehouse.datasets.manifest import DatasetManifest
from lakehouse.datasets.registration import Registration
from lakehouse.engine.changes import Scope
from lakehouse.engine.running import CallWatch
from lakehouse.engine.session import Session
from lakehouse.runtime import Lakehouse
from lakehouse.storage import Bucket
from lakehouse.types import TableName

ROLES = [
    {"name": "europe", "grants": [{"on": "registered.raw.*", "row_filter": "a < 3"}]},
    {"name": "nobody", "grants": [{"on": "lake.*.*"}]},
]
_sessions = itertools.count()


def open_lake(root: Path, s3: S3 | None = None, **more: Any) -> Lakehouse:
    """A lake over a directory, with the bucket ``data`` beside it: another one, or one of a store."""
    data: dict[str, Any] = {"name": "data", "path": str(root / "data")}
    if s3 is not None:
        data = s3.settings(root.name, name="data").model_dump(exclude_unset=True)
    settings = {
        "buckets": [{"name": "primary", "path": str(root / "primary")}, data],
        "catalog": {"refresh_ms": 0},
        "cache": {"directory": str(root / "cache")},
        "roles": ROLES,
    }
    return Lakehouse(Settings.model_validate(settings | more))


def parquet(rows: pa.Table | dict[str, Any], **options: Any) -> bytes:
    """A Parquet object."""
    target = io.BytesIO()
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.table(rows), target, **options)
    return target.getvalue()


def put(bucket: Bucket, key: str, rows: pa.Table | dict[str, Any], **options: Any) -> None:
    """Put a Parquet object into a bucket."""
    bucket.put(key, parquet(rows, **options))


def register(lake: Lakehouse, name: str = "raw.t", prefix: str = "t", **more: Any) -> DatasetManifest:
    """Register a prefix of the bucket ``data``."""
    schema, table = name.split(".")
    where = TableName("registered", schema, table)
    wanted = Registration(where, more.pop("bucket", "data"), prefix, **more)
    return lake.registrations.register(wanted, "ann")[0]


def session_of(lake: Lakehouse, role: str = "admin") -> Session:
    """A session of its own."""
    return lake.sessions.get(f"registered-{next(_sessions)}", Principal("ann", frozenset({role})))


def run(session: Session, sql: str, parameters: list[Any] | None = None) -> Any:
    """The rows of a query, or how many rows a statement changed."""
    engine = session.engine
    analysis = engine.gate.analyse(sql)
    transaction = session.sql_transaction
    if analysis.is_update:
        return engine.changes.run(analysis, Scope(session, transaction, CallWatch()))
    plan = engine.plan(analysis, session, transaction, parameters)
    table = pa.Table.from_batches(list(engine.open(plan, session, CallWatch())), plan.schema)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
