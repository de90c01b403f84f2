"""The TLS settings and the proxy of a session's connections."""

from __future__ import annotations

import functools
import os
import ssl
import urllib.request
from typing import Any

import aiohttp
import attrs
from yarl import URL

from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.http.hosts import host_of
from qwen_edit_async.http.options import may_be_proxied, unused_proxy_hint
from qwen_edit_async.log import log
from qwen_edit_async.text import quoted

_SSL_HINT = "give an ssl.SSLContext, or the path of a file with CA certificates"
_PROXY_HINT = "proxy can't be used: give text such as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"


@attrs.frozen(kw_only=True)
class Network:
    """The TLS settings and the proxy of all connections of a session. Its repr shows no password.

    Attributes:
        ssl: The TLS settings; ``None`` for the certificates that the environment names, or else the system's.
        proxy: The proxy of all connections; ``None`` to use the environment's proxies if ``trust_env`` is set.
        trust_env: Whether to use the environment's proxies and netrc file.
    """

    ssl: ssl.SSLContext | None = None
    proxy: URL | None = attrs.field(default=None, repr=False)
    trust_env: bool = False

    def connector(self, **options: Any) -> aiohttp.TCPConnector:
        """Create a connection pool without a limit on connections.

        Raises:
            ConfigurationError: The environment names a certificate file that can't be used.
        """
        named = [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
        context = _context_of_environment(*named) if self.ssl is None and any(named) else self.ssl
        return aiohttp.TCPConnector(limit=0, ssl=True if context is None else context, **options)

    def for_calls_to(self, base_url: str) -> Network:
        """Return the settings for API calls. Unencrypted calls to this machine use no proxy."""
        return self if may_be_proxied(base_url) else attrs.evolve(self, proxy=None, trust_env=False)

    def proxy_of(self, url: URL) -> URL | None:
        """Return the proxy for a URL. An environment proxy with an https URL is ignored, as in aiohttp."""
        if self.proxy is not None:
            return self.proxy if may_be_proxied(str(url)) else None
        proxy = URL(urllib.request.getproxies().get(url.scheme, "") if self.trust_env else "")
        return proxy if proxy.scheme == "http" and not urllib.request.proxy_bypass(host_of(url)) else None

    def peer(self, url: URL, name: str, error: Exception) -> str:
        """Name the peer of a failed call: ``name``, ``name`` through the proxy, or the proxy if it is unreachable."""
        if (proxy := self.proxy_of(url)) is None:
            return name
        shown = f"the proxy {proxy.host_subcomponent}:{proxy.port}"
        unreached = (getattr(error, "host", None), getattr(error, "port", None))
        return shown if unreached == (proxy.raw_host, proxy.port) else f"{name} through {shown}"

    def unused_proxy(self, url: URL) -> str:
        """Return a hint if the environment has an unused proxy for the URL; otherwise an empty string."""
        if self.proxy is not None or self.trust_env or urllib.request.proxy_bypass(url.host or ""):
            return ""
        return unused_proxy_hint(str(url), urllib.request.getproxies())


@functools.lru_cache(maxsize=1)
def _context_of_environment(file: str | None, _folder: str | None) -> ssl.SSLContext:
    """Return TLS settings for the environment's certificates. aiohttp reads the environment only on import."""
    context = ssl.create_default_context()
    if file:
        try:
            context.load_verify_locations(file)  # create_default_context ignores a file that can't be used
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"SSL_CERT_FILE is {quoted(file)} ({_reason_of(error)}): name a file with CA certificates, or unset it"
            ) from None
    return context


def _reason_of(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def resolve_ssl(value: object) -> ssl.SSLContext | None:
    """Return the TLS settings for the option ``ssl``. The certificates in a file replace the system's.

    Raises:
        ConfigurationError: The option is neither a context nor a path, or the file can't be used.
    """
    if isinstance(value, ssl.SSLContext):
        if value.verify_mode is ssl.CERT_NONE:
            log.warning("ssl does not check certificates: an attacker can read the key and change the pictures")
        return value
    if value is None:
        return None
    reason = ""
    if isinstance(value, str | os.PathLike) and str(value):
        try:
            return ssl.create_default_context(cafile=value)
        except (OSError, ValueError) as error:  # includes ssl.SSLError
            reason = f" ({_reason_of(error)})"
    refusal = "ssl is False, which would turn off certificate checks" if value is False else f"ssl is {quoted(value)}"
    raise ConfigurationError(f"{refusal}{reason}: {_SSL_HINT}")


def resolve_proxy(value: object) -> URL | None:
    """Return the URL for the option ``proxy``. Errors do not show the URL, because it may contain a password.

    Raises:
        ConfigurationError: The option is not the URL of an HTTP proxy.
    """
    if value is None:
        return None
    try:
        url = URL(value if isinstance(value, str) else "")
    except ValueError:
        url = URL()
    del value  # some tools show the local variables of a traceback
    if url.scheme in {"http", "https"} and url.host and url.raw_path_qs in {"", "/"}:
        return url
    del url
    raise ConfigurationError(_PROXY_HINT)
