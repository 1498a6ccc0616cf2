"""Encryption over the wire, and servers that refuse to start unprotected or with unfit certificates."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest
import trustme
from conftest import ROOT, Server, start_server
from lakehouse_client import LakehouseClientError, connect
from wire import call, command, query

TOKEN = "a-token-for-the-test-" * 2
AUTH = """
[[auth.tokens]]
name = "tester"
roles = ["writer"]
token = { env = "TESTER_TOKEN" }
"""
TLS = """
[server.tls]
certificate = "certificate.pem"
key = "key.pem"
"""


@dataclass(frozen=True)
class Encrypted:
    """A server over TLS, and the authority that vouches for it."""

    server: Server
    authority: bytes

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"grpc+tls://127.0.0.1:{self.server.port}"

    def client(self, **options: object) -> flight.FlightClient:
        """A client that trusts it."""
        return flight.connect(self.uri, **{"tls_root_certs": self.authority, **options})


def write_identity(directory: Path, authority: trustme.CA, **times: datetime) -> None:
    """Put certificate and key where the configuration has them."""
    directory.mkdir(parents=True, exist_ok=True)
    made = authority.issue_cert("127.0.0.1", "localhost", **times)
    (directory / "certificate.pem").write_bytes(made.cert_chain_pems[0].bytes())
    (directory / "key.pem").touch(mode=0o600)
    (directory / "key.pem").write_bytes(made.private_key_pem.bytes())


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    directory, authority = tmp_path_factory.mktemp("encrypted"), trustme.CA()
    write_identity(directory, authority)
    running = start_server(directory, AUTH + TLS, TESTER_TOKEN=TOKEN)
    yield Encrypted(running, authority.cert_pem.bytes())
    assert running.stop() == 0, "".join(running.log[-50:])
    assert not [line for line in running.log if "Traceback" in line]


CALL = flight.FlightCallOptions(timeout=30, headers=[(b"authorization", f"Bearer {TOKEN}".encode())])


def test_the_server_says_that_it_is_encrypted(encrypted: Encrypted) -> None:
    assert [line for line in encrypted.server.log if encrypted.uri in line] != []


def test_rows_come_and_go_encrypted_as_they_are(encrypted: Encrypted) -> None:
    rows = pa.table({"i": pa.array(range(300_000), pa.int64()), "s": [str(i) for i in range(300_000)]})
    with connect(encrypted.uri, token=TOKEN, tls_root_certs=encrypted.authority) as client:
        assert client.ingest("encrypted_rows", rows, "replace") == rows.num_rows
        back = client.sql("SELECT * FROM encrypted_rows ORDER BY i").table()
    assert back.cast(rows.schema) == rows


def test_who_does_not_trust_the_authority_sends_nothing(encrypted: Encrypted) -> None:
    with pytest.raises(LakehouseClientError, match=r"TLS_FAILED|UNREACHABLE"):
        connect(encrypted.uri, token=TOKEN, tls_root_certs=trustme.CA().cert_pem.bytes())
    with flight.connect(encrypted.uri) as client, pytest.raises(flight.FlightUnavailableError):
        query(client, "SELECT 1", CALL)


def test_who_comes_unencrypted_gets_no_answer(encrypted: Encrypted) -> None:
    with (
        flight.connect(f"grpc://127.0.0.1:{encrypted.server.port}") as client,
        pytest.raises(flight.FlightUnavailableError),
    ):
        query(client, "SELECT 1", CALL)


def test_the_certificate_is_for_its_names_only(encrypted: Encrypted) -> None:
    other = encrypted.client(override_hostname="lake.example.org")
    with other, pytest.raises(flight.FlightUnavailableError):
        query(other, "SELECT 1", CALL)
    with encrypted.client(override_hostname="localhost") as client:
        assert query(client, "SELECT 1", CALL).num_rows == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(encrypted: Encrypted, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=encrypted.authority.decode())
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", encrypted.server.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_older_versions_are_not_spoken(encrypted: Encrypted) -> None:
    context = ssl.create_default_context(cadata=encrypted.authority.decode())
    # Without this the client itself would refuse them.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", encrypted.server.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_bytes_that_are_no_tls_disturb_nobody(encrypted: Encrypted) -> None:
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x00" * 5000,
        os.urandom(4096),
        b"",
    ):
        with socket.create_connection(("127.0.0.1", encrypted.server.port), timeout=10) as plain:
            plain.sendall(garbage)
    with encrypted.client() as client:
        assert query(client, "SELECT 1", CALL).num_rows == 1


def test_a_session_lives_on_a_connection_that_is_encrypted(encrypted: Encrypted) -> None:
    with encrypted.client() as client:
        query(client, "CREATE TEMP TABLE own AS SELECT 7 AS x", CALL)
        assert query(client, "SELECT x FROM own", CALL).to_pylist() == [{"x": 7}]
        info = client.get_flight_info(command("CommandStatementQuery", query="SELECT current_user"), CALL)
        assert client.do_get(info.endpoints[0].ticket, CALL).read_all().column(0).to_pylist() == ["tester"]


# -- starting -------------------------------------------------------------------------------------------


def lakehouse(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a directory with a configuration."""
    return subprocess.run(
        [sys.executable, "-m", "flight_server", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TESTER_TOKEN": TOKEN, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a certificate and a configuration that names it."""
    write_identity(tmp_path, trustme.CA())
    (tmp_path / "lakehouse.toml").write_text(AUTH + TLS)
    return tmp_path


@pytest.mark.parametrize("arguments", [("serve", "--port", "0"), ("check-config",)])
def test_a_key_open_to_others_is_refused_in_one_line(directory: Path, arguments: tuple[str, ...]) -> None:
    (directory / "key.pem").chmod(0o644)
    done = lakehouse(directory, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"chmod 600 {directory / 'key.pem'}" in done.stderr


@pytest.mark.parametrize("arguments", [("serve", "--port", "0"), ("demo", "--port", "0"), ("check-config",)])
def test_a_server_does_not_stand_on_a_network_unprotected(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    open_to_all = {"LAKEHOUSE__SERVER__HOST": "0.0.0.0", "LAKEHOUSE__SERVER__ALLOW_IP_LITERALS": "true"}
    done = lakehouse(tmp_path, *arguments, **open_to_all)
    assert done.returncode == 1
    assert "other machines can reach" in done.stderr
    assert "--insecure" in done.stderr
    assert "Traceback" not in done.stderr


def test_insecure_lets_it_stand_there(tmp_path: Path) -> None:
    open_to_all = {
        "LAKEHOUSE__SERVER__HOST": "0.0.0.0",
        "LAKEHOUSE__SERVER__ALLOW_IP_LITERALS": "true",
        "LAKEHOUSE__SERVER__INSECURE": "true",
    }
    running = start_server(tmp_path, **open_to_all)
    try:
        with running.client() as client:
            assert call(client, "auth.whoami")["name"] == "anonymous"
        assert [line for line in running.log if "unprotected" in line] != []
    finally:
        assert running.stop() == 0


def test_the_flag_is_understood(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flight_server", "serve", "--insecure", "--host", "0.0.0.0", "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LAKEHOUSE__SERVER__ALLOW_IP_LITERALS": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        lines = iter(process.stdout)
        assert any("listening" in line for line in lines)
        process.terminate()
        for _ in lines:
            pass
    assert process.returncode == 0


def test_an_expired_certificate_is_warned_of_and_served(tmp_path: Path) -> None:
    authority, yesterday = trustme.CA(), datetime.now(UTC) - timedelta(days=1)
    write_identity(tmp_path, authority, not_after=yesterday)
    running = start_server(tmp_path, AUTH + TLS, TESTER_TOKEN=TOKEN)
    try:
        warnings = [line for line in running.log if "has expired" in line]
        assert len(warnings) == 1
        unchecked = flight.connect(f"grpc+tls://127.0.0.1:{running.port}", disable_server_verification=True)
        with unchecked, Encrypted(running, authority.cert_pem.bytes()).client() as checking:
            assert query(unchecked, "SELECT 1", CALL).num_rows == 1
            with pytest.raises(flight.FlightUnavailableError):
                query(checking, "SELECT 1", CALL)
    finally:
        assert running.stop() == 0


def test_the_demo_says_that_it_goes_without(directory: Path) -> None:
    done = lakehouse(directory, "demo", "--port", "0", "--exit")
    assert done.returncode == 1
    assert "the demo goes without encryption and authentication" in done.stderr


def test_made_certificates_are_served_and_trusted(tmp_path: Path) -> None:
    made = lakehouse(tmp_path, "make-certificate", "lake.lan", "--client", "etl")
    assert made.returncode == 0, made.stderr
    config = made.stdout[made.stdout.index("[server.tls]") : made.stdout.index("Clients get")]
    running = start_server(tmp_path, config)
    try:
        with connect(
            f"grpc+tls://localhost:{running.port}",
            tls_root_certs=tmp_path / "tls/authority.pem",
            tls_client_cert=tmp_path / "tls/etl.pem",
            tls_client_key=tmp_path / "tls/etl.key",
        ) as client:
            who = client.actions.auth.whoami()
            assert (who.name, who.roles, who.method) == ("etl", ["reader"], "certificate")
    finally:
        assert running.stop() == 0
