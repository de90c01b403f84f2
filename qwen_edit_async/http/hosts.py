"""Decides which result URLs may be downloaded. Pure: host names are resolved elsewhere.

A forged reply must not make this machine request an address that outsiders can't reach, such as loopback, a private
network or a cloud's metadata service.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import attrs
from yarl import URL

MAX_SHOWN: Final = 100
"""The maximum number of characters of a host name that a message shows."""

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL: Final = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's host services, which give out a machine's secrets
    ipaddress.ip_network("192.0.0.0/24"),  # protocol assignments, clouds' metadata; partly global in older Pythons
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays, deprecated (RFC 7526)
    ipaddress.ip_network("3fff::/20"),  # documentation (RFC 9637); global in older Pythons
)
"""Addresses that the standard library may call global, although no service should serve results from them."""
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


@attrs.frozen(kw_only=True)
class ResultHosts:
    """The hosts that results may come from, besides public addresses.

    Attributes:
        anywhere: Whether results may come from any address, because the service itself has no public address.
        allowed: The hosts that may have any address, in lower case.
    """

    anywhere: bool = False
    allowed: frozenset[str] = frozenset()

    def trusts(self, url: URL) -> bool:
        """Return whether a URL's host may have any address."""
        return self.anywhere or host_of(url) in self.allowed

    def problem(self, url: URL, came_from: URL | None = None) -> str | None:
        """Return the reason why a URL must not be downloaded, or ``None``.

        ``came_from`` is the URL that redirected to ``url``, if any.
        """
        if url.scheme not in {"http", "https"}:
            return "its URL is not http(s)"
        if came_from is not None and (came_from.scheme, url.scheme) == ("https", "http"):
            return "its host redirects from https to http"
        if "@" in url.raw_authority:
            return "its URL contains a user name or password"
        if not self.trusts(url) and _is_certainly_not_public(host_of(url)):
            return not_public(url)
        return None


def not_public(url: URL) -> str:
    """Return the message for a URL whose host has no public address."""
    host = host_of(url)[:MAX_SHOWN]
    return f"its host {host!r} has no public address; to allow results from this host, add it to allow_result_hosts"


def host_of(url: URL) -> str:
    """Return a URL's host in lower case and without a trailing dot, or an empty string."""
    return (url.host or "").rstrip(".").lower()


def is_public(address: str) -> bool:
    """Return whether an IP address is public. In an IPv4-mapped or NAT64 address, only the IPv4 address counts."""
    parsed = parse_address(address)
    if parsed is None:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return _is_global(parsed)
    if parsed.sixtofour is not None:
        return False  # 6to4 is obsolete, and Python versions disagree about it
    inner = parsed.ipv4_mapped
    if parsed in _NAT64:
        inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
    if inner is not None:
        return _is_global(inner)
    return _is_global(parsed) and parsed in _GLOBAL_UNICAST


def is_local(host: str) -> bool:
    """Return whether a host is ``localhost``, ends with ``.localhost``, or is an IP address that is not public."""
    if parse_address(host) is not None:
        return not is_public(host)
    return host == "localhost" or host.endswith(".localhost")


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host's IP address, or ``None`` if the host is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in _SPECIAL)


def _is_certainly_not_public(host: str) -> bool:
    """Return whether a host is local, or an oddly spelled IPv4 address, such as ``127.1`` or ``0x7f.1``."""
    if is_local(host):
        return True
    last = host.rpartition(".")[2]
    return _NUMERIC_LABEL.fullmatch(last) is not None and not is_public(host)
