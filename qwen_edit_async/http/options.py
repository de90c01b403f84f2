"""What a session is set up with, checked before anything is opened. Pure: the environment is an argument."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable, Mapping
from html.entities import html5
from typing import Literal, NoReturn
from urllib.parse import urlsplit

import attrs

from qwen_edit_async.contract import DEFAULT_BASE_URL, SUBMIT_PATH
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.http.hosts import ResultHosts, is_local
from qwen_edit_async.protocol.base import WireProtocol
from qwen_edit_async.protocol.generation import EnvelopeName, GenerationProtocol
from qwen_edit_async.text import quoted

API_KEY_VARIABLE = "QWEN_EDIT_API_KEY"
BASE_URL_VARIABLE = "QWEN_EDIT_BASE_URL"

Envelope = Literal["auto"] | EnvelopeName

_NO_KEY = (
    f"no API key: set the environment variable {API_KEY_VARIABLE}, or pass api_key to EditSession "
    "(to try things without one, use qwen_edit_async.emulator.EditEmulator)"
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_HOST = re.compile(r"[^\s/@:?#\\\[\]]+|\[?[0-9A-Fa-f:.]+(%[^\s/\]]+)?\]?")
_OWN_HEADERS = frozenset({"authorization", "content-length", "content-type", "host", "transfer-encoding", "connection"})

_QUOTES = "'\"`\u2018\u2019\u201c\u201d"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_DEFAULT_TIMEOUT = 60.0
_LONGEST_CONNECT = 10.0
_SHORTEST_REDACTED = 8
_SHORTEST_TORN = 4
_ANY_TEXT = "surrogatepass"
_BETWEEN = "\0{0,3}"  # in UTF-16 and UTF-32, ASCII has zeros in between
_TORN = _BETWEEN + r"(?:\\{1,4}(?:[ux][0-9A-Fa-f]{0,3})?|%[0-9A-Fa-f]?|&#?\w*)?\Z"  # may be in the midst of an escape
_ENTITY = re.compile(rb"&(?:#|\w+;)")  # not the ampersands of a URL, which most replies have
_NAMES = [name for name, text in html5.items() if text.isascii() and name.endswith(";")]


class Secret:
    """Text that shows in no repr, log or traceback."""

    __slots__ = ("_bytes", "_spellings", "_text", "_torn")

    def __init__(self, text: str) -> None:
        self._text = text
        self._bytes = text.encode("utf-8", _ANY_TEXT)
        # What is short may be part of other words, such as a task's id.
        long_enough = len(text) >= _SHORTEST_REDACTED
        spellings = [_spelling(character) for character in text] if long_enough else []
        self._spellings = re.compile(_BETWEEN.join(spellings).encode()) if spellings else None
        begin, rest = _BETWEEN.join(spellings[:_SHORTEST_TORN]), spellings[_SHORTEST_TORN:]
        self._torn = (begin + "".join(f"(?:{_BETWEEN}{spelling}|{_TORN})" for spelling in rest)).encode()

    def __repr__(self) -> str:
        return "Secret('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret can't be pickled or copied")

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def redact(self, text: str) -> str:
        """``text`` without the secret: services are known to quote a key that they refuse."""
        data = text.encode("utf-8", _ANY_TEXT)
        redacted = self.redact_bytes(data)
        return text if redacted is data else redacted.decode("utf-8", _ANY_TEXT)

    def redact_bytes(self, data: bytes) -> bytes:
        """As :meth:`redact`, for what is not decoded yet; also where it is escaped, in JSON, a URL or HTML."""
        # Most replies are told to be free of it by searches that take next to no time.
        if self._spellings is None or not (self._bytes in data or _may_be_escaped(data)):
            return data
        return self._spellings.sub(b"***", data)

    def redact_torn(self, data: bytes) -> bytes:
        """As :meth:`redact_bytes`, for what may break off in the midst of the secret."""
        # Compiled when there is need for it: that takes longer than all else of a session's beginning.
        return re.sub(self._torn, b"***", data) if self._torn else data


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one HTTP call may take, in seconds.

    Attributes:
        connect: To make the connection.
        send: For the connection to take the next piece of the request's body; an upload may last as long as it moves.
        reply: From the end of a submission to the whole of its reply; for a status check altogether. For a picture,
            between its pieces; one that comes at less than 1 KiB/s is given up as well.
    """

    connect: float = _LONGEST_CONNECT
    send: float = _DEFAULT_TIMEOUT
    reply: float = _DEFAULT_TIMEOUT

    def __attrs_post_init__(self) -> None:
        for name, seconds in attrs.asdict(self).items():
            check_positive(seconds, f"timeout ({name})")


def resolve_api_key(api_key: str | None, from_environment: str | None) -> Secret:
    """The key to authenticate with: the argument, else the environment's.

    Raises:
        ConfigurationError: If there is none, or if it can't be put into an HTTP header.
    """
    given = api_key if api_key is not None else from_environment
    key = given.strip() if isinstance(given, str) else ""
    if not key:
        problem = _NO_KEY
    elif key[0] in _QUOTES or key[-1] in _QUOTES:
        problem = f"the API key is in quotes: remove them from {API_KEY_VARIABLE}, or from api_key"
    elif not key.isascii() or not key.isprintable() or " " in key:
        problem = "the API key holds characters that no key has: was something else copied with it?"
    else:
        return Secret(key)
    del api_key, from_environment, given, key  # some tools show a traceback's local variables
    raise ConfigurationError(problem)


def resolve_base_url(base_url: str | None, from_environment: str | None, *, allow_insecure: bool) -> str:
    """The service's address without a trailing slash: the argument, else the environment's, else the default.

    Raises:
        ConfigurationError: If it is no plain http(s) URL, or if the key would travel unencrypted to another machine.
    """
    url = base_url or from_environment or DEFAULT_BASE_URL
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
        raise ConfigurationError("base_url is no plain URL such as https://host or https://host/path")
    if parts.path.rstrip("/").endswith(SUBMIT_PATH):
        raise ConfigurationError(f"base_url ends with {SUBMIT_PATH}, which each call adds by itself: leave it out")
    if parts.scheme == "http" and not allow_insecure and not _is_loopback(host):
        raise ConfigurationError(
            f"base_url http://{parts.netloc} would send the key unencrypted: use https, or allow_insecure=True"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def origin_of(base_url: str) -> str:
    """Whose tasks those of a resolved address are: its scheme, host and port, written in one way."""
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def may_be_proxied(base_url: str) -> bool:
    """Whether calls may take the environment's proxy; one asked for this machine would see the key unencrypted."""
    parts = urlsplit(base_url)
    return parts.scheme != "http" or not _is_loopback(parts.hostname or "")


def check_proxies(proxies: Mapping[str, str]) -> None:
    """Refuse proxies of the environment that calls could not go through.

    Raises:
        ConfigurationError: If one has no scheme, or one of another protocol.
    """
    for name in _DEFAULT_PORTS:
        proxy = proxies.get(name, "")
        if proxy and not proxy.startswith(("http://", "https://")):  # not quoted: it may hold a password
            raise ConfigurationError(f"the environment's {name}_proxy can't be used: write it as http://HOST:PORT")


def unused_proxy_hint(base_url: str, proxies: Mapping[str, str]) -> str:
    """Say that the environment has a proxy for this address; empty if it has none."""
    name = urlsplit(base_url).scheme
    if name not in proxies or not may_be_proxied(base_url):
        return ""
    return f"; the environment's {name}_proxy is not used: trust_env=True uses it"


def resolve_result_hosts(base_url: str, allowed: Iterable[str]) -> ResultHosts:
    """Where results may lie: at public addresses, at the hosts that are named, and anywhere if the service is local.

    Raises:
        ConfigurationError: If what is named are no hosts.
    """
    if isinstance(allowed, str) or not isinstance(allowed, Iterable):
        raise ConfigurationError(f"allow_result_hosts is {quoted(allowed)}: give a list of hosts")
    hosts = list(allowed)
    for host in hosts:
        if not isinstance(host, str) or not _HOST.fullmatch(host):
            raise ConfigurationError(
                f"allow_result_hosts: {quoted(host)} is no host: give a name or an address, without scheme, port, path"
            )
    return ResultHosts(
        anywhere=is_local((urlsplit(base_url).hostname or "").rstrip(".")),
        allowed=frozenset(host.strip("[]").rstrip(".").lower() for host in hosts),
    )


def resolve_timeouts(timeout: float | Timeouts) -> Timeouts:
    """One number of seconds is the limit of each phase, but connecting never takes longer than 10 s."""
    if isinstance(timeout, Timeouts):
        return timeout
    check_positive(timeout, "timeout")
    return Timeouts(connect=min(timeout, _LONGEST_CONNECT), send=timeout, reply=timeout)


def resolve_protocol(envelope: Envelope | WireProtocol) -> tuple[WireProtocol, WireProtocol | None]:
    """The protocol to begin with, and the one to try if the first creation is refused as malformed."""
    if envelope == "auto":
        protocol = GenerationProtocol("flat")
        return protocol, protocol.alternative()
    if isinstance(envelope, str | int | None):
        if envelope not in {"flat", "params"}:
            raise ConfigurationError(f"envelope is {quoted(envelope)}: give 'auto', 'flat' or 'params'")
        return GenerationProtocol(envelope), None
    return envelope, envelope.alternative()


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers to send with each call to the service.

    Raises:
        ConfigurationError: If they would replace the key, or are no text of one line.
    """
    if not isinstance(headers, Mapping | None):
        raise ConfigurationError(f"default_headers is {type(headers).__name__!r}: give a mapping")
    checked = dict(headers or {})
    for text in (*checked, *checked.values()):
        if not isinstance(text, str) or any(character in text for character in "\r\n\0"):
            raise ConfigurationError("default_headers: give names and values that are text of one line")
    for name in checked:
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"default_headers: {quoted(name)} is no header's name")
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(f"default_headers may not hold {name}: it is set for each call (the key: api_key)")
    return checked


def check_positive(value: float | None, name: str, *, integer: bool = False) -> None:
    """Refuse what is no positive finite number.

    Raises:
        ConfigurationError: If it is none.
    """
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= sys.float_info.max:
        what = "a positive integer" if integer else "a positive number"
        raise ConfigurationError(f"{name} is {quoted(value)}: give {what}")


def check_not_negative(value: int, name: str) -> None:
    """Refuse what is no integer from 0.

    Raises:
        ConfigurationError: If it is none.
    """
    if type(value) is not int or value < 0:
        raise ConfigurationError(f"{name} is {quoted(value)}: give 0 or a positive integer")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _may_be_escaped(data: bytes) -> bool:
    return b"\\" in data or b"%" in data or b"\0" in data or _ENTITY.search(data) is not None


def _spelling(character: str) -> str:
    """A pattern of all ways in which a character of ASCII may be quoted, each beginning with a literal: that is fast.

    Any character of JSON may be escaped; some encoders do so with ``/``, ``=`` and ``+``. JSON inside of JSON doubles
    the backslashes; how many there may be is bounded, lest a reply of nothing else takes long. JavaScript has a shorter
    escape, and HTML has names for most signs.
    """
    plain, code = re.escape(character), ord(character)
    digits = "".join(f"[{digit}{digit.upper()}]" for digit in f"{code:02x}")
    escaped = f"u00{digits}|x{digits}" + ("" if character.isalnum() else f"|{plain}")
    entities = [f"#0*{code};", f"#[xX]0*{digits};", *(name for name in _NAMES if html5[name] == character)]
    # Plain last: a ``%``, an ``&`` or a backslash may be the beginning of how the character itself is spelled.
    return rf"(?:\\\\{{0,3}}(?:{escaped})|%{digits}|&(?:{'|'.join(entities)})|{plain})"
