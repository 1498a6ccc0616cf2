"""Certificates and keys: what is read, what is refused and why, what is made."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from flight_server.certificates import make_certificates
from flight_server.tls import TlsIdentity, load_tls
from lakehouse.config import Settings
from lakehouse.errors import ConfigError

NOW = datetime.now(UTC)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The files of a server that are as they should be."""
    authority = trustme.CA()
    made = authority.issue_cert("lake.example.org")
    paths = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "client_authorities")}
    paths["certificate"].write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    paths["key"].write_bytes(made.private_key_pem.bytes())
    paths["key"].chmod(0o600)
    paths["client_authorities"].write_bytes(authority.cert_pem.bytes())
    return paths


def load(files: dict[str, Path], now: datetime = NOW, **auth: Any) -> TlsIdentity | None:
    tls = {name: str(path) for name, path in files.items()}
    return load_tls(Settings(server={"tls": tls}, auth=auth), now)


def refusal(files: dict[str, Path]) -> str:
    with pytest.raises(ConfigError) as refused:
        load(files)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return str(refused.value)


def test_without_a_certificate_nothing_is_encrypted() -> None:
    assert load({}) is None


def test_the_files_become_what_the_transport_is_given(files: dict[str, Path]) -> None:
    mutual = load(files)
    assert mutual is not None
    pair = (files["certificate"].read_bytes(), files["key"].read_bytes())
    assert mutual.arguments() == {
        "tls_certificates": [pair],
        "verify_client": True,
        "root_certificates": files["client_authorities"].read_bytes(),
    }
    del files["client_authorities"]
    plain = load(files)
    assert plain is not None
    assert plain.arguments() == {"tls_certificates": [pair]}
    assert "PRIVATE KEY" not in repr(plain)


@pytest.mark.parametrize("name", ["certificate", "key", "client_authorities"])
def test_a_file_that_cannot_be_read_is_named(files: dict[str, Path], name: str) -> None:
    files[name].unlink()
    assert f"server.tls.{name}: cannot read {files[name]}: No such file" in refusal(files)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("certificate", "holds no certificate"),
        ("key", "holds no private key"),
        ("client_authorities", "holds no certificate"),
    ],
)
@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"\x30\x82", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_a_file_of_another_sort_is_refused(
    files: dict[str, Path], name: str, said: str, content: bytes
) -> None:
    files[name].write_bytes(content)
    text = refusal(files)
    assert f"server.tls.{name}" in text
    assert said in text


def test_the_key_of_another_certificate_is_refused(files: dict[str, Path]) -> None:
    files["key"].write_bytes(trustme.CA().issue_cert("lake.example.org").private_key_pem.bytes())
    assert f"{files['key']} is not the key of the certificate" in refusal(files)


def test_a_chain_in_the_wrong_order_is_refused(files: dict[str, Path]) -> None:
    own, authority = files["certificate"].read_bytes(), files["client_authorities"].read_bytes()
    files["certificate"].write_bytes(authority + own)
    assert "the server's own comes first" in refusal(files)


def test_a_key_with_a_passphrase_is_refused_with_the_way_out(files: dict[str, Path]) -> None:
    key = load_pem_private_key(files["key"].read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    files["key"].write_bytes(locked)
    assert "has a passphrase" in refusal(files)
    assert "openssl pkey" in refusal(files)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o602, 0o666])
def test_a_key_open_to_others_is_refused_with_the_way_out(files: dict[str, Path], mode: int) -> None:
    files["key"].chmod(mode)
    assert f"has mode {mode:04o}, expected 0600" in refusal(files)
    assert f"chmod 600 {files['key']}" in refusal(files)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_a_key_that_its_group_may_read_is_taken(files: dict[str, Path], mode: int) -> None:
    files["key"].chmod(mode)
    assert load(files) is not None


def test_certificates_of_principals_need_authorities(files: dict[str, Path]) -> None:
    del files["client_authorities"]
    with pytest.raises(ConfigError, match=r"server\.tls\.client_authorities: is empty"):
        load(files, certificates=[{"subject": "etl.example.org", "name": "etl"}])


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"not_after": NOW - timedelta(days=1)}, "has expired"),
        ({"not_before": NOW + timedelta(days=1)}, "is not valid yet"),
        ({"not_after": NOW + timedelta(days=7)}, "expires soon"),
        ({"not_after": NOW + timedelta(days=90)}, None),
    ],
)
def test_a_certificate_out_of_its_time_is_warned_of(
    files: dict[str, Path], times: dict[str, datetime], said: str | None
) -> None:
    made = trustme.CA().issue_cert("lake.example.org", **times)
    files["certificate"].write_bytes(made.cert_chain_pems[0].bytes())
    files["key"].write_bytes(made.private_key_pem.bytes())
    with capture_logs() as logs:
        load(files)
    events = [(line["log_level"], line["event"]) for line in logs]
    assert events == [] if said is None else (len(events) == 1 and said in events[0][1])


def test_a_certificate_without_names_is_warned_of(tmp_path: Path) -> None:
    make_certificates(tmp_path, [], [], NOW)
    with capture_logs() as logs:
        load({"certificate": tmp_path / "authority.pem", "key": tmp_path / "authority.key"})
    assert ["no subject alternative name" in line["event"] for line in logs] == [True]


# -- made certificates ----------------------------------------------------------------------------------


def test_made_certificates_are_what_the_server_takes(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls", ["lake.lan", "192.0.2.7"], ["etl"], NOW)
    names = [path.name for path in made]
    assert names == ["authority.pem", "authority.key", "server.pem", "server.key", "etl.pem", "etl.key"]
    assert {path.stat().st_mode & 0o777 for path in made if path.suffix == ".key"} == {0o600}
    directory = tmp_path / "tls"
    files = {"certificate": "server.pem", "key": "server.key", "client_authorities": "authority.pem"}
    with capture_logs() as logs:
        assert load({name: directory / file for name, file in files.items()}) is not None
    assert logs == []
    certificate = x509.load_pem_x509_certificate((directory / "server.pem").read_bytes())
    shown = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert shown.get_values_for_type(x509.DNSName) == ["lake.lan", "localhost"]
    addresses = [str(address) for address in shown.get_values_for_type(x509.IPAddress)]
    assert addresses == ["192.0.2.7", "127.0.0.1", "::1"]


def test_the_strictest_checks_hold_for_made_certificates(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["lake.lan"], ["etl"], NOW)
    context = ssl.create_default_context(cafile=tmp_path / "authority.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server.load_verify_locations(tmp_path / "authority.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(tmp_path / "etl.pem", tmp_path / "etl.key")
    one = context.wrap_bio(incoming, outgoing, server_hostname="lake.lan")
    two = server.wrap_bio(outgoing, incoming, server_side=True)
    open_ends = [one, two, one, two]
    for end in open_ends:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = two.getpeercert()
    assert shown is not None
    assert shown["subjectAltName"] == (("DNS", "etl"),)


def test_the_authority_and_the_certificates_of_clients_are_kept(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["one.lan"], ["etl"], NOW)
    kept = {name: (tmp_path / name).read_bytes() for name in ("authority.pem", "etl.pem", "etl.key")}
    again = make_certificates(tmp_path, ["two.lan"], ["etl", "other"], NOW)
    assert [path.name for path in again] == ["server.pem", "server.key", "other.pem", "other.key"]
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("name", ["authority", "server", "../etl", "a/b", "", "-x"])
def test_a_client_is_not_called_what_is_no_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a client"):
        make_certificates(tmp_path, [], [name], NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        make_certificates(tmp_path / "file" / "tls", [], [], NOW)


def test_a_host_that_no_certificate_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a DNS name nor an address"):
        make_certificates(tmp_path, ["x" * 80], [], NOW)
