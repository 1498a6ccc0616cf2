"""Makes certificates for trying out encryption where no authority is at hand."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lakehouse.errors import ConfigError

AUTHORITY = "authority"
SERVER = "server"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Less than what the strictest clients take for too long.
_LIFE = timedelta(days=397)
_AUTHORITY_LIFE = timedelta(days=3650)
_CLOCKS_DIFFER = timedelta(hours=1)
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def make_certificates(
    directory: Path, hosts: Sequence[str], clients: Iterable[str], now: datetime
) -> list[Path]:
    """Write an authority of one's own, and certificates that it vouches for; each as NAME.pem and NAME.key.

    The authority is made once and used again. A server's certificate is written anew every time, that of a
    client only where it is not there yet.

    Args:
        directory: Where to; created when missing.
        hosts: Names and addresses by which clients reach the server; those of the loopback are added.
        clients: Names of clients that are to present a certificate.
        now: The time from which on they hold.

    Returns:
        The files written.

    Raises:
        ConfigError: A name cannot stand in a certificate, or a file cannot be read or written.
    """
    for name in clients:
        if not _FILE_NAME.fullmatch(name) or name in (AUTHORITY, SERVER):
            raise ConfigError(f"{name!r} is no name for a client, expected letters, digits, '.', '_' and '-'")
    names = [_general_name(host) for host in dict.fromkeys((*(hosts or (socket.gethostname(),)), *_LOOPBACK))]
    written: list[Path] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = _authority(directory, now, written)
        title = hosts[0] if hosts else socket.gethostname()
        _issue(directory / SERVER, authority, title, names, ExtendedKeyUsageOID.SERVER_AUTH, now, written)
        for name in clients:
            if not (directory / f"{name}.pem").exists():
                own: list[x509.GeneralName] = [x509.DNSName(name)]
                _issue(directory / name, authority, name, own, ExtendedKeyUsageOID.CLIENT_AUTH, now, written)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from None
    return written


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode())
    except ValueError:
        raise ConfigError(f"{host!r} is neither a DNS name nor an address") from None


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def _authority(directory: Path, now: datetime, written: list[Path]) -> _Authority:
    path = directory / f"{AUTHORITY}.pem"
    if path.exists():
        key = load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return _Authority(x509.load_pem_x509_certificate(path.read_bytes()), key)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Lakehouse authority of {socket.gethostname()}")
    certificate = (
        _begun(name, name, key, now, _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )
    _write(path, certificate, key, written)
    return _Authority(certificate, key)


def _issue(
    path: Path,
    authority: _Authority,
    title: str,
    names: list[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    now: datetime,
    written: list[Path],
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = (
        _begun(_name(title), issuer.subject, key, now, min(_LIFE, issuer.not_valid_after_utc - now))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority.key, SHA256())
    )
    _write(path.with_name(f"{path.name}.pem"), certificate, key, written)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(title: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, written: list[Path]
) -> None:
    key_path = path.with_name(f"{path.stem if path.suffix == '.pem' else path.name}.key")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key_path.unlink(missing_ok=True)  # a file that is there would keep its mode
    with os.fdopen(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    written += [path, key_path]
