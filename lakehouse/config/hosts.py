"""Which names may stand where the configuration asks for an endpoint."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)


def check_host(host: str, allow_ip_literals: bool) -> None:
    """Refuse a host that is neither a name nor an address that is welcome.

    Certificates, fail-over and moving a service to another machine all hang on names, so addresses
    are accepted only where they cannot leave the machine, or when the configuration says so.

    Args:
        host: A DNS name, or an IPv4 or IPv6 address without brackets.
        allow_ip_literals: Whether addresses other than loopback are welcome. The unspecified
            addresses ``0.0.0.0`` and ``::`` (all interfaces) count as such.

    Raises:
        ValueError: The host is not a name, or is an address that is not allowed.
    """
    address = _address(host)
    if address is None:
        _check_name(host)
        return
    if allow_ip_literals or _is_loopback(address):
        return
    what = "all interfaces" if address.is_unspecified else "an address"
    raise ValueError(
        f"should be a DNS name or a loopback address, this is {what}; "
        "set server.allow_ip_literals = true to use it all the same"
    )


def is_loopback(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is this machine's own; names and whatever else are not."""
    found = _address(address)
    return found is not None and _is_loopback(found)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_loopback(address: IPv4Address | IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _check_name(name: str) -> None:
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("should be a DNS name or an IP address, without scheme, port and brackets")
    if _NUMBER.fullmatch(labels[-1]):  # resolvers read 127.1 and 0x7f000001 as addresses
        raise ValueError("should be a DNS name or a complete IP address")
