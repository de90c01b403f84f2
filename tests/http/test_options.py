"""The options of a session, and the secrecy of its key."""

from __future__ import annotations

import traceback
from typing import Any

import attrs
import pytest

from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.http.options import (
    Secret,
    Timeouts,
    check_headers,
    check_proxies,
    key_in_environment,
    may_be_proxied,
    origin_of,
    resolve_api_key,
    resolve_base_url,
    resolve_timeouts,
    unused_proxy_hint,
)
from qwen_edit_async.protocol.base import WireProtocol
from qwen_edit_async.protocol.dashscope import DashScopeProtocol
from qwen_edit_async.protocol.generation import GenerationProtocol
from qwen_edit_async.protocol.queue import QueueProtocol

FLAT = GenerationProtocol("flat")


def resolve(api_key: Any, from_environment: str | None) -> Secret:
    environment = {} if from_environment is None else {"QWEN_EDIT_API_KEY": from_environment}
    return resolve_api_key(api_key, FLAT, environment)


def test_the_key_is_the_argument() -> None:
    assert resolve("argument", "environment").reveal() == "argument"


def test_without_an_argument_the_key_is_the_environment_s() -> None:
    assert resolve(None, "environment").reveal() == "environment"


@pytest.mark.parametrize("key", [" key", "key\n", "\tkey \r\n"], ids=repr)
def test_space_around_the_key_is_not_part_of_it(key: str) -> None:
    assert resolve(key, None).reveal() == "key"


@pytest.mark.parametrize("key", ["sk-abcDEF_123.~+/=", "!\"#$%&'()*,:;<>?@[]^`{|}"])
def test_every_visible_ascii_character_can_be_in_a_key(key: str) -> None:
    assert resolve(key, None).reveal() == key


@pytest.mark.parametrize(
    ("key", "from_environment"),
    [
        (None, None),
        (None, ""),
        (None, " \n"),
        ("", "environment"),
        ("  ", "environment"),
        (b"hush", "environment"),
        (5, None),
    ],
)
def test_without_a_key_it_is_said_how_to_give_one(key: Any, from_environment: str | None) -> None:
    with pytest.raises(ConfigurationError, match=r"QWEN_EDIT_API_KEY.*api_key.*EditEmulator"):
        resolve(key, from_environment)


WEIRD_KEYS = [
    "hush hush",
    "hush\nhush",
    "hush\r\nX-Evil: hush",
    "hush\x00",
    "hush\x7f",
    "hush\tkey",
    "hush\u00a0key",
    "hushключ",
    "\ufeffhush",
    "hush\ud800",
    "hush…",
]


@pytest.mark.parametrize("key", WEIRD_KEYS, ids=ascii)
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_a_key_that_fits_into_no_header_is_refused_without_being_told(key: str, source: str) -> None:
    arguments = (key, None) if source == "argument" else (None, key)
    with pytest.raises(ConfigurationError, match="characters that no key has") as caught:
        resolve(*arguments)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert "hush" not in told
    assert caught.value.__context__ is None


@pytest.mark.parametrize("key", ['"hush"', "'hush'", "hush'", "\u201chush\u201d"], ids=ascii)
def test_quotes_that_came_along_with_a_key_are_named(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^the API key is in quotes: remove them from QWEN_EDIT_API_KEY"):
        resolve(None, key)


def test_a_key_with_the_name_of_its_variable_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^the API key begins with QWEN_EDIT_API_KEY=: leave that part out"):
        resolve(None, "QWEN_EDIT_API_KEY=hush")


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"DASHSCOPE_API_KEY": "vendor", "QWEN_EDIT_API_KEY": "own"}, "vendor"),
        ({"DASHSCOPE_API_KEY": " ", "QWEN_EDIT_API_KEY": "own"}, "own"),
        ({"DASHSCOPE_API_KEY": "vendor"}, "vendor"),
        ({}, None),
    ],
)
def test_model_studio_has_a_variable_of_its_own(environment: dict[str, str], key: str | None) -> None:
    assert key_in_environment(DashScopeProtocol(), environment) == key


def test_the_key_of_model_studio_goes_to_nobody_else() -> None:
    assert key_in_environment(FLAT, {"DASHSCOPE_API_KEY": "vendor"}) is None


def test_a_missing_key_of_model_studio_names_both_variables() -> None:
    with pytest.raises(ConfigurationError, match="DASHSCOPE_API_KEY or QWEN_EDIT_API_KEY"):
        resolve_api_key(None, DashScopeProtocol(), {})


def test_a_key_of_another_type_is_refused_without_being_told() -> None:
    key: Any = b"hush" * 2
    with pytest.raises(ConfigurationError) as caught:
        resolve(key, None)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{0!r}".format, lambda secret: f"{[secret]}"])
def test_a_secret_shows_in_no_text(show: Any) -> None:
    assert "hush" not in show(Secret("hush"))
    assert "***" in show(Secret("hush"))


def test_a_secret_has_no_attributes_to_list() -> None:
    assert not hasattr(Secret("hush"), "__dict__")


@pytest.mark.parametrize("ending", ["", "/"])
@pytest.mark.parametrize("prefix", ["https://host", "https://host/proxied"])
def test_an_address_with_the_endpoint_s_path_says_to_leave_that_out(prefix: str, ending: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^base_url ends with /model/v1/generation, .*: leave it out$"):
        base_url(f"{prefix}/model/v1/generation{ending}")


@pytest.mark.parametrize("proxy", ["proxy:3128", "10.0.0.1:3128", "me:hush@proxy:3128", "socks5://proxy:1080"])
@pytest.mark.parametrize("name", ["http", "https"])
def test_a_proxy_without_a_scheme_is_refused_without_being_told(name: str, proxy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_proxies({name: proxy})
    assert str(caught.value) == f"{name}_proxy in the environment can't be used: write it as http://HOST:PORT"


def test_other_proxies_are_taken() -> None:
    check_proxies({"http": "http://proxy:3128", "https": "https://proxy", "ftp": "proxy:21", "no": "host"})


@pytest.mark.parametrize(
    ("url", "proxies", "hint"),
    [
        ("https://host", {"https": "x"}, "; https_proxy in the environment is not used: trust_env=True uses it"),
        ("https://host", {"http": "x"}, ""),
        (
            "https://host",
            {"https": "x", "all": "y"},
            "; https_proxy in the environment is not used: trust_env=True uses it",
        ),
        ("http://localhost:80", {"http": "x", "all": "y"}, ""),
        (
            "https://host",
            {"all": "x"},
            "; all_proxy in the environment is not used: set https_proxy, and use trust_env=True",
        ),
    ],
)
def test_a_proxy_that_is_not_used_is_named(url: str, proxies: dict[str, str], hint: str) -> None:
    assert unused_proxy_hint(url, proxies) == hint


def base_url(url: Any, from_environment: str | None = None, *, allow_insecure: bool = False) -> str:
    return resolve_base_url(url, from_environment, FLAT, allow_insecure=allow_insecure)


@pytest.mark.parametrize("url", [None, ""])
def test_the_default_host_is_the_one_that_publishes_the_contract(url: str | None) -> None:
    assert base_url(url) == "https://cloud.vtrix.ai"
    assert base_url(url, "") == "https://cloud.vtrix.ai"


def test_each_protocol_has_its_default_host() -> None:
    hosts = [resolve_base_url(None, None, each(), allow_insecure=False) for each in (QueueProtocol, DashScopeProtocol)]
    assert hosts == ["https://cloud.vtrix.ai", "https://dashscope-intl.aliyuncs.com"]


@pytest.mark.parametrize(
    ("protocol", "host"),
    [
        (DashScopeProtocol(), "cloud.vtrix.ai"),
        (DashScopeProtocol(), "Cloud.SeaArt.ai."),
        (QueueProtocol(), "dashscope.aliyuncs.com"),
        (FLAT, "dashscope-intl.aliyuncs.com"),
    ],
)
def test_the_address_of_another_service_is_refused_before_it_gets_the_key(protocol: WireProtocol, host: str) -> None:
    for given, named, where in ((f"https://{host}/x", None, "base_url"), (None, f"https://{host}", "QWEN_EDIT_BASE")):
        with pytest.raises(ConfigurationError, match=f"{where}.*does not offer the protocol '{protocol.name}'"):
            resolve_base_url(given, named, protocol, allow_insecure=True)


@pytest.mark.parametrize(
    ("protocol", "path"),
    [
        (DashScopeProtocol(), "/api/v1"),
        (DashScopeProtocol(), "/api/v1/services/aigc/multimodal-generation/generation"),
        (QueueProtocol(), "/model/v1/queue"),
        (QueueProtocol(), "/gateway/model/v1/queue/qwen_image_edit_plus/"),
        (FLAT, "/model/v1"),
    ],
)
def test_a_base_url_that_ends_as_each_call_begins_is_refused(protocol: WireProtocol, path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"base_url ends with /\w+/v1.*, which each call adds"):
        resolve_base_url(f"https://host{path}", None, protocol, allow_insecure=False)


@pytest.mark.parametrize("path", ["/api", "/model/v2", "/v1", "/api/v1/x", "/xmodel/v1x"])
def test_another_path_of_a_base_url_is_kept(path: str) -> None:
    for protocol in (FLAT, QueueProtocol(), DashScopeProtocol()):
        assert resolve_base_url(f"https://host{path}", None, protocol, allow_insecure=False) == f"https://host{path}"


def test_the_environment_replaces_the_default_host_and_an_argument_both() -> None:
    assert base_url(None, "https://environment") == "https://environment"
    assert base_url("https://argument", "https://environment") == "https://argument"


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("https://host", "https://host"),
        ("https://host/", "https://host"),
        ("https://host:8443/path//", "https://host:8443/path"),
        ("https://host/a/b", "https://host/a/b"),
        (" HTTPS://host/a \n", "https://host/a"),
        ("https://host/?", "https://host"),
        ("https://10.0.0.5", "https://10.0.0.5"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_a_base_url_is_kept_without_what_stands_in_the_way(url: str, resolved: str) -> None:
    assert base_url(url) == resolved


@pytest.mark.parametrize(
    "url",
    [
        "host",
        "host:8080",
        "//host",
        "/path",
        "ftp://host",
        "file:///etc",
        "https://",
        "https://:443",
        "https:///path",
        "https://host?key=hush",
        "https://host#hush",
        "https://user:hush@host",
        "https://hush@host",
        "https://host:port",
        "https://host:99999",
        "https://[::1",
        "https://[hush]",
        " ",
        5,
        b"https://host",
    ],
    ids=repr,
)
@pytest.mark.parametrize("allow_insecure", [False, True])
def test_what_is_no_plain_url_is_refused_without_being_told(url: Any, *, allow_insecure: bool) -> None:
    with pytest.raises(ConfigurationError, match="base_url is not a plain URL") as caught:
        base_url(url, allow_insecure=allow_insecure)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8787", "127.9.8.7", "[::1]", "[::1]:8787", "localhost", "LocalHost:80"]
)
def test_http_is_fine_on_this_machine(host: str) -> None:
    assert base_url(f"http://{host}/x") == f"http://{host}/x"


@pytest.mark.parametrize(
    "host",
    [
        "host",
        "cloud.vtrix.ai",
        "128.0.0.1",
        "10.0.0.5:80",
        "0.0.0.0",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "notlocalhost",
        "example.localhost.com",
        "[::2]",
        "[::]",
    ],
)
def test_http_to_another_machine_is_refused_unless_it_is_allowed(host: str) -> None:
    with pytest.raises(ConfigurationError, match="unencrypted: use https, or allow_insecure=True"):
        base_url(f"http://{host}")
    assert base_url(f"http://{host}", allow_insecure=True) == f"http://{host}"


def test_http_from_the_environment_is_refused_too() -> None:
    with pytest.raises(ConfigurationError, match="unencrypted"):
        base_url(None, "http://host")


def test_the_default_timeouts_are_ten_seconds_to_connect_and_sixty_for_the_rest() -> None:
    assert attrs.astuple(Timeouts()) == (10.0, 60.0, 60.0)


@pytest.mark.parametrize(("timeout", "connect"), [(60.0, 10.0), (10, 10), (3.5, 3.5), (0.001, 0.001)])
def test_one_timeout_is_every_phase_s_but_connecting_takes_ten_seconds_at_most(timeout: float, connect: float) -> None:
    assert resolve_timeouts(timeout) == Timeouts(connect=connect, send=timeout, reply=timeout)


def test_timeouts_of_one_s_own_are_kept() -> None:
    timeouts = Timeouts(connect=30.0, send=1.0, reply=2.0)
    assert resolve_timeouts(timeouts) is timeouts


NO_POSITIVE_NUMBERS = [0, 0.0, -1, -0.5, float("nan"), float("inf"), 10**400, True, None, "60"]
shortly = {"ids": lambda value: repr(value)[:10]}


@pytest.mark.parametrize("value", NO_POSITIVE_NUMBERS, **shortly)
@pytest.mark.parametrize("phase", ["connect", "send", "reply"])
def test_a_phase_without_a_positive_number_of_seconds_is_refused_and_named(phase: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^timeout \({phase}\) is "):
        Timeouts(**{phase: value})


@pytest.mark.parametrize("value", NO_POSITIVE_NUMBERS, **shortly)
def test_a_timeout_that_is_no_positive_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^timeout is .*: give a positive number"):
        resolve_timeouts(value)


@pytest.mark.parametrize(("headers", "checked"), [(None, {}), ({}, {}), ({"X-Model": "m"}, {"X-Model": "m"})])
def test_headers_are_taken_as_they_are(headers: dict[str, str] | None, checked: dict[str, str]) -> None:
    assert check_headers(headers) == checked


def test_headers_do_not_follow_what_they_were_made_of() -> None:
    headers = {"X-Model": "m"}
    checked = check_headers(headers)
    headers["X-Model"] = "other"
    assert checked == {"X-Model": "m"}


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_headers_may_not_replace_the_key(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"can't contain (?i:authorization)") as caught:
        check_headers({"X-Model": "m", name: "Bearer hush"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("headers", [{"X-A": 1}, {"X-A": "1\r\nAuthorization: x"}, {"X\n": "1"}, {3: "1"}])
def test_headers_that_are_no_text_of_one_line_are_refused(headers):
    with pytest.raises(ConfigurationError, match="one line"):
        check_headers(headers)


@pytest.mark.parametrize("headers", [5, ["X-A"], {"Authorization ": "x"}, {"": "x"}, {"X A": "1"}])
def test_headers_that_would_break_the_request_are_refused(headers):
    with pytest.raises(ConfigurationError, match="default_headers"):
        check_headers(headers)


@pytest.mark.parametrize("name", ["Host", "CONNECTION", "content-length", "Content-Type", "Transfer-Encoding"])
def test_headers_that_each_call_has_already_are_refused(name):
    with pytest.raises(ConfigurationError, match=f"can't contain {name}"):
        check_headers({name: "x"})


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        ("https://cloud.vtrix.ai", "https://cloud.vtrix.ai"),
        ("https://Cloud.Vtrix.ai:443/prefix", "https://cloud.vtrix.ai"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:443", "http://[::1]:443"),
    ],
)
def test_a_service_is_known_by_scheme_host_and_port(base_url: str, origin: str) -> None:
    assert origin_of(base_url) == origin


@pytest.mark.parametrize(
    ("base_url", "proxied"),
    [
        ("http://[::1]:8787", False),
        ("http://127.0.0.2", False),
        ("https://localhost", True),
        ("http://gateway.corp", True),
        ("https://service.example", True),
    ],
)
def test_a_proxy_is_for_other_machines_and_for_what_is_encrypted(base_url: str, *, proxied: bool) -> None:
    assert may_be_proxied(base_url) is proxied
