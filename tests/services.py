"""Catalog services of the test run's own, each on a port of its own; ``make catalogs`` fetches them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep  # tests make that of the module shorter

import pytest
from conftest import ROOT, need

BUILD = ROOT / "build" / "catalogs"
_JAVA_OPTIONS = (
    "-Xmx192m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    "-Dderby.stream.error.file=/dev/null",
)


@dataclass
class Service:
    """A running service. It holds nothing that outlives the run.

    Attributes:
        process: It; it ends with its standard input.
        port: Where it listens.
        directory: Where it keeps its files.
    """

    process: subprocess.Popen[str]
    port: int
    directory: Path

    def stop(self) -> None:
        """End it and remove its files."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def start_rest() -> Service:
    """Start Iceberg's own REST catalog: ``/NAME`` is one whose tables are in the directory ``NAME``."""
    build = _built("rest")
    directory = Path(tempfile.mkdtemp(prefix="lakehouse-rest-"))
    java = [need("java"), *_JAVA_OPTIONS, "-cp", f"{build}/classes:{build}/*"]
    return _started(directory, [*java, "RestCatalogs", str(directory)])


def start_hive() -> Service:
    """Start Hive's metastore."""
    build = _built("hive")
    directory = Path(tempfile.mkdtemp(prefix="lakehouse-hive-"))
    java = [need("java"), *_JAVA_OPTIONS, "-cp", f"{build}/classes:{build}/*"]
    (script,) = build.rglob("hive-schema-4.0.0.derby.sql")
    service = _started(directory, [*java, "HiveMetastore", str(script), str(directory)])
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", service.port), 1):
            return service
        sleep(0.1)
    raise TimeoutError("the metastore did not come up")


def start_glue() -> Service:
    """Start what stands for AWS Glue."""
    directory = Path(tempfile.mkdtemp(prefix="lakehouse-glue-"))
    return _started(directory, [sys.executable, str(ROOT / "tests" / "catalogs" / "glue.py")])


def _started(directory: Path, command: list[str]) -> Service:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    return Service(process, int(process.stdout.readline()), directory)


def _built(name: str) -> Path:
    build = BUILD / name
    if not (build / ".compiled").exists():
        told = f"the {name} service is missing; make catalogs fetches it"
        if os.environ.get("LAKEHOUSE_TEST_NO_SKIP"):
            pytest.fail(told)
        pytest.skip(told)
    return build
