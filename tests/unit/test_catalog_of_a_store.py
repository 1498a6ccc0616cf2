"""Tables in a store that has an Iceberg REST catalog of its own: SeaweedFS's, in a bucket for tables only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep

import pytest
from faults.mortal import Lake
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, RESTError
from requests import RequestException
from s3 import S3, WAREHOUSE, start_s3

from lakehouse.config import Settings
from lakehouse.errors import NotSupported
from lakehouse.runtime import Lakehouse


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = start_s3()
    credential = {"credential": running.secret, "oauth2-server-uri": f"{running.rest_uri}/v1/oauth/tokens"}
    for _ in range(300):
        # The bucket for tables comes after the others.
        with suppress(NoSuchNamespaceError, RESTError, RequestException):
            RestCatalog(
                "ready", uri=running.rest_uri, warehouse=running.warehouse, **credential
            ).list_namespaces()
            break
        sleep(0.1)
    yield running
    running.stop()


class Served(Lake):
    """A lakehouse whose own objects are in a directory, and whose tables are in the store."""

    def __init__(self, root: Path, s3: S3) -> None:
        tables = s3.settings(name="tables").model_dump() | {"bucket": WAREHOUSE, "prefix": ""}
        settings = Settings(
            buckets=[{"name": "primary", "kind": "local", "path": root}, tables],
            catalog={
                "type": "rest",
                "bucket": "tables",
                "uri": s3.rest_uri,
                "credential": tables["secret_ref"],
                "properties": {"warehouse": s3.warehouse},
                "refresh_ms": 0,
            },
            audit={"enabled": False},
            engine={"threads": 1},
        )
        self.lakehouse = Lakehouse(settings)
        self.session = self.lakehouse.sessions.get("tests", self.lakehouse.anonymous)


def test_sql_works_over_a_store_with_a_catalog_of_its_own(s3: S3, tmp_path: Path) -> None:
    lake = Served(tmp_path, s3)
    try:
        lake.run("create table a (n int, s varchar)")
        lake.run("insert into a values (1, 'x'), (2, 'y'), (3, 'z')")
        lake.run("begin")
        lake.run("update a set s = 'q' where n = 1")
        with pytest.raises(NotSupported, match="several tables at once"):
            lake.run("create table c as select n from a where n < 3")
        lake.run("delete from a where n = 2")
        lake.run("commit")
        lake.run("alter table a add column k int")
        lake.run("alter table a rename to b")
        lake.run("create table a as select 7 as n")
    finally:
        lake.close()
    again = Served(tmp_path / "other", s3)
    try:
        rows = [{"n": 1, "s": "q", "k": None}, {"n": 3, "s": "z", "k": None}]
        assert again.rows("select n, s, k from b order by n") == rows
        assert again.rows("select n from A") == [{"n": 7}]
        catalog = again.lakehouse.catalog
        uris = [file.uri for file in catalog.load("main", "a").files()]
        again.run("drop table a")
        assert again.rows("select n, s, k from b order by n") == rows
        # It deletes the files of a table that is dropped, although it is asked not to (docs/catalogs.md).
        assert not any(catalog.bucket.exists(catalog.bucket.key_of(uri)) for uri in uris)
    finally:
        again.close()
