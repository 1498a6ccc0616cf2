"""Encryption: from the PEM files of the configuration to what the transport is given, checked before it is.

The transport says nothing useful about a certificate that it cannot work with, and about one that clients
will refuse it says nothing at all. So everything that can be known beforehand is looked at here.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from lakehouse.config import Settings
from lakehouse.config.access import TlsSettings
from lakehouse.errors import ConfigError

log = structlog.get_logger(__name__)

_SOON = timedelta(days=30)
# Others may not read it, and the group may not write it. A group may read it: that is how service managers
# and container platforms hand out keys.
_FORBIDDEN_MODE = stat.S_IRWXO | stat.S_IWGRP
_FORMAT = "PEM, a text that begins with -----BEGIN"


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Who the server is, and whom it asks for a certificate.

    Attributes:
        certificate: The certificate chain, PEM.
        key: Its private key, PEM.
        client_authorities: Certificates of the authorities that clients' certificates come from, PEM; empty
            where clients need none.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_authorities: bytes = b""

    def arguments(self) -> dict[str, Any]:
        """What ``pyarrow.flight.FlightServerBase`` is given."""
        given: dict[str, Any] = {"tls_certificates": [(self.certificate, self.key)]}
        if self.client_authorities:
            given |= {"verify_client": True, "root_certificates": self.client_authorities}
        return given


def load_tls(configuration: Settings, now: datetime) -> TlsIdentity | None:
    """Read and check the files of ``server.tls``; what clients will stumble over is logged as a warning.

    Args:
        configuration: The whole of it.
        now: The time, to tell certificates that have expired.

    Returns:
        None where connections are not to be encrypted.

    Raises:
        ConfigError: A file is missing or is not what it should be, the key belongs to another certificate,
            others may read it, or clients are told apart by certificates that nobody asks for.
    """
    settings = configuration.server.tls
    if configuration.auth.certificates and not settings.client_authorities:
        hint = "name the certificates of the authorities that clients' certificates come from"
        raise _wrong("client_authorities", "is empty, but [[auth.certificates]] needs it", hint)
    if not settings.is_enabled:
        return None
    chain = _read("certificate", settings.certificate)
    key = _read_key(settings.key)
    certificates = _certificates("certificate", settings.certificate, chain)
    _check_pair(certificates, key, settings)
    _warn_of_dates("certificate", certificates, now)
    _warn_of_names(certificates[0])
    authorities = b""
    if settings.client_authorities:
        authorities = _read("client_authorities", settings.client_authorities)
        found = _certificates("client_authorities", settings.client_authorities, authorities)
        _warn_of_dates("client_authorities", found, now)
    return TlsIdentity(chain, key, authorities)


def _wrong(setting: str, problem: str, hint: str = "") -> ConfigError:
    return ConfigError(f"server.tls.{setting}: {problem}", hint)


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _wrong(setting, f"cannot read {path}: {error.strerror}") from None


def _read_key(path: str) -> bytes:
    content = _read("key", path)
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    if mode & _FORBIDDEN_MODE:
        raise _wrong(
            "key", f"{path} has mode {mode:04o}, expected 0600: others may not have it", f"chmod 600 {path}"
        )
    return content


def _certificates(setting: str, path: str, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise _wrong(setting, f"{path} holds no certificate, expected {_FORMAT} CERTIFICATE-----") from None


def _check_pair(chain: list[x509.Certificate], key: bytes, settings: TlsSettings) -> None:
    """Refuse a key that is unusable or belongs to another certificate."""
    path = settings.key
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        hint = f"openssl pkey -in {path} -out FILE takes the passphrase off"
        raise _wrong("key", f"{path} has a passphrase, expected a key without one", hint) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong("key", f"{path} holds no private key, expected {_FORMAT} PRIVATE KEY-----") from None

    def public(holder: Any) -> bytes:
        written: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return written

    own = public(private)
    if public(chain[0]) == own:
        return
    if any(public(certificate) == own for certificate in chain[1:]):
        problem = f"{settings.certificate} begins with another certificate than that of the key"
        raise _wrong("certificate", problem, "the server's own comes first, then its authorities")
    raise _wrong("key", f"{path} is not the key of the certificate in {settings.certificate}")


def _warn_of_dates(setting: str, certificates: list[x509.Certificate], now: datetime) -> None:
    for certificate in certificates:
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        name = certificate.subject.rfc4514_string()
        said = {"setting": f"server.tls.{setting}", "subject": name, "from": str(first), "until": str(last)}
        if last <= now:
            log.warning("a certificate has expired, clients will refuse it", **said)
        elif first > now:
            log.warning("a certificate is not valid yet, clients will refuse it", **said)
        elif last <= now + _SOON:
            log.warning("a certificate expires soon", **said)


def _warn_of_names(certificate: x509.Certificate) -> None:
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        log.warning(
            "the server's certificate has no subject alternative name, most clients will refuse it",
            subject=certificate.subject.rfc4514_string(),
        )
