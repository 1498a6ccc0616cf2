"""Objects through the Python client and the command, against a real server."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pytest
from conftest import start_server
from lakehouse_client import Client, LakehouseClientError, connect

from flight_server.cli import run

if TYPE_CHECKING:
    from conftest import Server

CONTENT = os.urandom(12_345_678)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("objects"), '[auth]\nanonymous_role = "admin"\n')
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with connect(server.uri) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["bytes", "path", "file", "stream"])
def test_what_is_put_comes_back(client: Client, tmp_path: Path, kind: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(CONTENT)
    given: Any = {"bytes": CONTENT, "path": str(source), "stream": io.BytesIO(CONTENT)}.get(kind)
    with source.open("rb") as file:
        put = client.put_object("primary", f"a/{kind}", given or file, sha256=SHA256)
    assert (put.size, put.sha256) == (len(CONTENT), SHA256)
    got = client.get_object("primary", f"a/{kind}", target, verify=True)
    assert got == put
    assert target.read_bytes() == CONTENT
    into = io.BytesIO()
    assert client.get_object("primary", f"a/{kind}", into) == put
    assert into.getvalue() == CONTENT
    assert client.read_object("primary", f"a/{kind}", 10, 5) == CONTENT[10:15]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
    with pytest.raises(LakehouseClientError) as refused:
        client.put_object("primary", f"a/{kind}", CONTENT, if_absent=True)
    assert refused.value.code == "OBJECT_ALREADY_EXISTS"


class Breaking:
    """A file whose disk breaks down after some pieces."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces

    def read(self, size: int) -> bytes:
        self.pieces -= 1
        if self.pieces < 0:
            raise OSError("the disk is broken")
        return bytes(size)


@pytest.mark.parametrize("pieces", [0, 1, 20])
def test_of_a_source_that_breaks_off_nothing_is_stored(client: Client, pieces: int) -> None:
    with pytest.raises(OSError, match="the disk is broken"):
        client.put_object("primary", "broken", cast("BinaryIO", Breaking(pieces)))
    with pytest.raises(LakehouseClientError) as missing:
        client.read_object("primary", "broken")
    assert missing.value.code == "OBJECT_NOT_FOUND"


def test_a_file_stays_as_it_was_when_nothing_comes(client: Client, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    with pytest.raises(LakehouseClientError):
        client.get_object("primary", "nothing", target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_the_command_puts_lists_copies_gets_and_removes(
    server: Server,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(CONTENT)

    def done(*arguments: str, status: int = 0) -> str:
        assert run(["objects", *arguments, "--uri", server.uri]) == status
        said = capsysbinary.readouterr()
        return (said.out + said.err).decode()

    assert SHA256 in done("put", str(source), "primary/cli/a", "--if-absent")
    assert "[OBJECT_ALREADY_EXISTS]" in done("put", str(source), "primary/cli/a", "--if-absent", status=1)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    done("put", "-", "primary/cli/deep/b")
    done("cp", "primary/cli/a", "primary/cli/c")
    done("get", "primary/cli/c", str(target), "--verify")
    assert target.read_bytes() == CONTENT
    assert done("get", "primary/cli/deep/b", "-") == "from a pipe"
    listed = done("ls", "primary/cli/")
    assert re.findall(r"cli/\S*", listed) == ["cli/deep/", "cli/a", "cli/c"]
    assert "12,345,678" in listed
    assert re.findall(r"cli/\S*", done("ls", "-r", "primary/cli")) == ["cli/a", "cli/c", "cli/deep/b"]
    done("rm", "primary/cli/a", "primary/cli/deep/b")
    assert "[OBJECT_NOT_FOUND]" in done("get", "primary/cli/a", "-", status=1)
    done("get", "primary", "-", status=2)
