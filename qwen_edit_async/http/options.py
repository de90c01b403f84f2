"""The options of a session, checked before a connection is opened. Pure: the environment is an argument."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import attrs

from qwen_edit_async.checks import check_positive
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.http.hosts import ResultHosts, is_local, parse_address
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.protocol.base import WireProtocol
from qwen_edit_async.text import quoted

BASE_URL_VARIABLE = "QWEN_EDIT_BASE_URL"
PROTOCOL_VARIABLE = "QWEN_EDIT_PROTOCOL"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_HOST = re.compile(r"[^\s/@:?#\\\[\]]+|\[?[0-9A-Fa-f:.]+(%[^\s/\]]+)?\]?")
_OWN_HEADERS = frozenset({"authorization", "content-length", "content-type", "host", "transfer-encoding", "connection"})

_QUOTES = "'\"`\u2018\u2019\u201c\u201d"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_DEFAULT_TIMEOUT = 60.0
_LONGEST_CONNECT = 10.0
_SHORTEST_START = 2


@attrs.frozen(kw_only=True)
class Timeouts:
    """The time limits of one HTTP call, in seconds.

    Attributes:
        connect: The limit for making the connection.
        send: The limit for sending one chunk of a request's body. A whole upload may take longer.
        reply: The limit for a whole status check. For a submission, the limit runs from the end of sending to the end
            of the reply. With ``dashscope``, the limit starts when the reply starts; until then, only the edit's
            deadline applies. For a download, the limit applies to each chunk. A download that takes longer than this
            limit must average 1 KiB/s or more.
    """

    connect: float = _LONGEST_CONNECT
    send: float = _DEFAULT_TIMEOUT
    reply: float = _DEFAULT_TIMEOUT

    def __attrs_post_init__(self) -> None:
        for name, seconds in attrs.asdict(self).items():
            check_positive(seconds, f"timeout ({name})")


def key_in_environment(protocol: WireProtocol, environment: Mapping[str, str]) -> str | None:
    """Return a protocol's API key from the environment."""
    values = (environment.get(name, "").strip() for name in protocol.key_variables)
    return next(filter(None, values), None)


def resolve_api_key(api_key: str | None, protocol: WireProtocol, environment: Mapping[str, str]) -> Secret:
    """Return the API key from the argument, or else from the environment.

    Raises:
        ConfigurationError: The key is missing or malformed.
    """
    given = api_key if api_key is not None else key_in_environment(protocol, environment)
    key = given.strip() if isinstance(given, str) else ""
    variable = " or ".join(protocol.key_variables)
    if not key:
        problem = (
            f"no API key: set the environment variable {variable}, or pass api_key to EditSession "
            "(to try the package without a key, use qwen_edit_async.emulator.EditEmulator)"
        )
    elif key[0] in _QUOTES or key[-1] in _QUOTES:
        problem = f"the API key is in quotes: remove them from {variable}, or from api_key"
    elif named := [name for name in protocol.key_variables if key.startswith(f"{name}=")]:
        problem = f"the API key begins with {named[0]}=: leave that part out"
    elif not key.isascii() or not key.isprintable() or " " in key:
        problem = "the API key has characters that no key has: copy the key again, without the text around it"
    else:
        return Secret(key)
    del api_key, environment, given, key  # some tools show the local variables of a traceback
    raise ConfigurationError(problem)


def resolve_base_url(
    base_url: str | None, from_environment: str | None, protocol: WireProtocol, *, allow_insecure: bool
) -> str:
    """Return the address from the argument, or else the environment, or else the protocol, without a trailing slash.

    Raises:
        ConfigurationError: The address is not a plain http(s) URL, its host does not offer the protocol, or its path
            repeats part of a call's path. Unencrypted addresses of other machines need ``allow_insecure``.
    """
    url = base_url or from_environment or protocol.default_base_url
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except (ValueError, AttributeError):
        parts, host = urlsplit(""), None
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or host.strip(".") == ""
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise ConfigurationError("base_url is not a plain URL: give one such as https://host or https://host/path")
    if host.rstrip(".") in protocol.foreign_hosts:
        where = "base_url" if base_url else f"the environment's {BASE_URL_VARIABLE}"
        raise ConfigurationError(
            f"{where} names the host {host}, which does not offer the protocol {protocol.name!r}: change "
            f"the URL or the protocol (the protocol's own address is {protocol.default_base_url})"
        )
    if repeated := _start_at_end_of(parts.path.rstrip("/"), protocol.submission_path):
        raise ConfigurationError(f"base_url ends with {repeated}, which each call adds: leave it out")
    if parts.scheme == "http" and not allow_insecure and not _is_loopback(host):
        raise ConfigurationError(
            f"base_url http://{parts.netloc} would send the key unencrypted: use https, or allow_insecure=True"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _start_at_end_of(path: str, submission_path: str) -> str:
    """Return the longest start of ``submission_path``, of two or more segments, that ``path`` ends with, or ``""``."""
    names = submission_path.split("/")[1:]
    starts = ("/" + "/".join(names[:count]) for count in range(len(names), _SHORTEST_START - 1, -1))
    return next((start for start in starts if path.endswith(start)), "")


def origin_of(base_url: str) -> str:
    """Return the scheme, host and port of a resolved address. The scheme's default port is left out."""
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def may_be_proxied(base_url: str) -> bool:
    """Return whether calls to an address may use a proxy.

    Calls to this machine over http may not use a proxy, because the proxy would see the key.
    """
    parts = urlsplit(base_url)
    return parts.scheme != "http" or not _is_loopback(parts.hostname or "")


def check_proxies(proxies: Mapping[str, str]) -> None:
    """Check the proxies of the environment.

    Raises:
        ConfigurationError: The URL of a proxy has no scheme, or a scheme other than http and https.
    """
    for name in _DEFAULT_PORTS:
        proxy = proxies.get(name, "")
        if proxy and not proxy.startswith(("http://", "https://")):
            # The message does not show the URL, because it may contain a password.
            raise ConfigurationError(f"{name}_proxy in the environment can't be used: write it as http://HOST:PORT")


def unused_proxy_hint(base_url: str, proxies: Mapping[str, str]) -> str:
    """Return a hint if the environment has an unused proxy for the address; otherwise an empty string."""
    name = urlsplit(base_url).scheme
    if not may_be_proxied(base_url):
        return ""
    if name in proxies:
        return f"; {name}_proxy in the environment is not used: trust_env=True uses it"
    if "all" in proxies:
        return f"; all_proxy in the environment is not used: set {name}_proxy, and use trust_env=True"
    return ""


def resolve_result_hosts(base_url: str, allowed: Iterable[str]) -> ResultHosts:
    """Return the hosts that results may come from.

    Raises:
        ConfigurationError: ``allowed`` is not a list of hosts.
    """
    if isinstance(allowed, str) or not isinstance(allowed, Iterable):
        raise ConfigurationError(f"allow_result_hosts is {quoted(allowed)}: give a list of hosts")
    hosts = list(allowed)
    for host in hosts:
        if not isinstance(host, str) or not _HOST.fullmatch(host):
            raise ConfigurationError(
                f"allow_result_hosts has {quoted(host)}: give a name or an address, without scheme, port or path"
            )
    return ResultHosts(
        anywhere=is_local((urlsplit(base_url).hostname or "").rstrip(".")),
        allowed=frozenset(host.strip("[]").rstrip(".").lower() for host in hosts),
    )


def resolve_timeouts(timeout: float | Timeouts) -> Timeouts:
    """Return the time limits. A single number sets all three, but ``connect`` is at most 10 s."""
    if isinstance(timeout, Timeouts):
        return timeout
    check_positive(timeout, "timeout")
    return Timeouts(connect=min(timeout, _LONGEST_CONNECT), send=timeout, reply=timeout)


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers to send with each call to the service.

    Raises:
        ConfigurationError: A header's name or value is not valid, or each call sets this header itself.
    """
    if not isinstance(headers, Mapping | None):
        raise ConfigurationError(f"default_headers is {type(headers).__name__!r}: give a mapping")
    checked = dict(headers or {})
    for text in (*checked, *checked.values()):
        if not isinstance(text, str) or any(character in text for character in "\r\n\0"):
            raise ConfigurationError("default_headers has a name or value that is not one line of text: correct it")
    for name in checked:
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"default_headers has {quoted(name)}: give a valid header name")
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(
                f"default_headers can't contain {name}, because each call sets it: leave it out (pass a key as api_key)"
            )
    return checked


def _is_loopback(host: str) -> bool:
    address = parse_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback
