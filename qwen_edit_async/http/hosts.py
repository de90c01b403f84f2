"""Which result URLs may be fetched. Pure: a name is resolved elsewhere, and its addresses are asked about.

A reply names them. Whoever can shape one must not reach through this machine what only this machine can reach: services
on loopback, on the private network, or the metadata address of a cloud.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import attrs
from yarl import URL

MAX_SHOWN: Final = 100
"""Characters of a host's name that are shown at most."""

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL: Final = (
    ipaddress.ip_network("168.63.129.16/32"),  # in Azure, the host's own services, which hand out a machine's secrets
    ipaddress.ip_network("192.0.0.0/24"),  # of protocols; a cloud's metadata too; older Pythons know two parts of it
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays, deprecated (RFC 7526)
    ipaddress.ip_network("3fff::/20"),  # documentation (RFC 9637), not known to older Pythons
)
"""No results lie there, though the standard library takes the addresses for global ones."""
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


@attrs.frozen(kw_only=True)
class ResultHosts:
    """Where results may lie, beyond public addresses.

    Attributes:
        anywhere: Whether they may lie at any address: the service itself is not at a public one.
        allowed: Hosts that may be at any address, in lower case.
    """

    anywhere: bool = False
    allowed: frozenset[str] = frozenset()

    def trusts(self, url: URL) -> bool:
        """Whether the URL's host may be at any address; of all others each address has to be public."""
        return self.anywhere or host_of(url) in self.allowed

    def problem(self, url: URL, came_from: URL | None = None) -> str | None:
        """Why a URL must not be fetched, in words, as far as that shows without resolving its name.

        Args:
            url: Of the result, or where its host redirects to.
            came_from: Which URL redirected there, if one did.
        """
        if url.scheme not in {"http", "https"}:
            return "its URL is not http(s)"
        if came_from is not None and (came_from.scheme, url.scheme) == ("https", "http"):
            return "its host redirects from https to http"
        if "@" in url.raw_authority:
            return "its URL holds a user name or password"
        if not self.trusts(url) and _is_certainly_not_public(host_of(url)):
            return not_public(url)
        return None


def not_public(url: URL) -> str:
    """What is wrong with a URL whose host has no public address."""
    return (
        f"its host {host_of(url)[:MAX_SHOWN]!r} has no public address; if results may lie there, "
        "name it in allow_result_hosts"
    )


def host_of(url: URL) -> str:
    """The URL's host, in lower case and without the root's dot; empty if there is none."""
    return (url.host or "").rstrip(".").lower()


def is_public(address: str) -> bool:
    """Whether an IP address is that of a host on the internet; an IPv4 address inside of an IPv6 one is what counts."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return _is_global(parsed)
    if parsed.sixtofour is not None:
        return False  # nobody needs them any more; newer Pythons call all of them private, older ones none
    inner = parsed.ipv4_mapped
    if parsed in _NAT64:
        inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
    if inner is not None:
        return _is_global(inner)
    return _is_global(parsed) and parsed in _GLOBAL_UNICAST


def is_local(host: str) -> bool:
    """Whether a host is this machine, or an address that is not public, by its spelling alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return not is_public(host)


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in _SPECIAL)


def _is_certainly_not_public(host: str) -> bool:
    """Odd spellings of IPv4 addresses too (``127.1``, ``2130706433``, ``0x7f.1``): no result needs them."""
    if is_local(host):
        return True
    last = host.rpartition(".")[2]
    return _NUMERIC_LABEL.fullmatch(last) is not None and not is_public(host)
