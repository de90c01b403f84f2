"""The decision about which result URLs may be downloaded, without a network."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from qwen_edit_async import ConfigurationError
from qwen_edit_async.http.hosts import ResultHosts, is_local, is_public
from qwen_edit_async.http.options import resolve_result_hosts
from qwen_edit_async.protocol.urls import resolve

PUBLIC = [
    "93.184.216.34",
    "1.1.1.1",
    "172.32.0.1",
    "168.63.129.15",
    "191.255.255.255",
    "192.0.1.0",
    "192.88.98.255",
    "3ffe::1",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
]


NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.0.3",
    "0.0.0.0",
    "10.0.0.5",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "192.0.0.9",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "168.63.129.16",
    "192.88.99.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "2002:7f00:1::",
    "2002:101:101::1",
    "2002:a9fe:a9fe::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2001:0:53aa:64c::1",
    "::ffff:168.63.129.16",
    "2002:a83f:8110::1",
    "64:ff9b::a83f:8110",
    "64:ff9b::c000:c0",
    "2001:db8::1",
    "3fff::1",
    "3fff:fff:ffff::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "no address",
]


ODD_SPELLINGS = ["127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "127.0.0.1..", "1.0x"]


ANYWHERE = ResultHosts(anywhere=True)


NOWHERE_ELSE = ResultHosts()


def url_of(host: str) -> URL:
    return URL(f"https://[{host}]/a.png" if ":" in host else f"https://{host}/a.png", encoded=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_on_the_internet_are_public(address):
    assert is_public(address)
    assert NOWHERE_ELSE.problem(url_of(address)) is None


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_all_other_addresses_are_not(address):
    assert not is_public(address)


@pytest.mark.parametrize("host", [*NOT_PUBLIC[:-1], *ODD_SPELLINGS, "localhost", "LOCALHOST.", "a.localhost"])
def test_a_url_of_no_public_address_is_refused_unless_results_may_lie_there(host):
    url = url_of(host)
    assert "no public address" in NOWHERE_ELSE.problem(url)
    assert "allow_result_hosts" in NOWHERE_ELSE.problem(url)
    assert ANYWHERE.problem(url) is None
    assert resolve_result_hosts("https://service.example", [url.host]).problem(url) is None


@pytest.mark.parametrize(
    "host", ["results.example", "a.b.c.example", "1.example", "0x7f.example", "xn--bcher-kva.example"]
)
def test_a_name_is_a_matter_of_what_it_resolves_to(host):
    assert NOWHERE_ELSE.problem(url_of(host)) is None
    assert not NOWHERE_ELSE.trusts(url_of(host))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "data:image/png;base64,AAAA", "javascript:1", "ftp://h/a", "a", ""]
)
def test_other_schemes_are_refused_everywhere(url):
    assert ANYWHERE.problem(URL(url, encoded=True)) == "its URL is not http(s)"


@pytest.mark.parametrize("userinfo", ["user:pass@", "user@", ":@", "@"])
def test_a_user_name_in_the_url_is_refused_everywhere(userinfo):
    assert "user name" in ANYWHERE.problem(URL(f"https://{userinfo}127.0.0.1/a.png", encoded=True))


def test_a_redirect_may_not_give_up_encryption():
    plain, encrypted = URL("http://results.example/a"), URL("https://results.example/a")
    assert ANYWHERE.problem(plain, encrypted) == "its host redirects from https to http"
    assert [ANYWHERE.problem(*pair) for pair in [(encrypted, plain), (plain, plain), (encrypted, encrypted)]] == [
        None
    ] * 3


BASE = URL("https://api.example/v1/task/t1?x=1", encoded=True)


@pytest.mark.parametrize("text", ["//10.0.0.5/a", "//127.1/a", "//u@r.example/a", "\\\\r.example/a"])
def test_a_relative_url_is_judged_by_where_it_leads(text):
    url = resolve(text, BASE)
    assert NOWHERE_ELSE.problem(url) is not None or url.host == "api.example"


@pytest.mark.parametrize(
    ("base_url", "local"),
    [
        ("http://127.0.0.1:8787", True),
        ("http://localhost:8787/path", True),
        ("https://10.0.0.5", True),
        ("http://[::1]:80", True),
        ("https://cloud.vtrix.ai", False),
        ("https://gateway.corp", False),
        ("https://1.1.1.1", False),
    ],
)
def test_results_may_lie_anywhere_if_the_service_itself_is_at_no_public_address(base_url, local):
    assert resolve_result_hosts(base_url, ()) == ResultHosts(anywhere=local)


def test_hosts_are_allowed_as_they_are_written():
    hosts = resolve_result_hosts("https://service.example", ["MinIO.corp.", "10.0.0.5", "[fd00::1]"])
    assert hosts.allowed == {"minio.corp", "10.0.0.5", "fd00::1"}
    assert all(hosts.trusts(URL(url)) for url in ["http://minio.corp:9000/a", "http://10.0.0.5/", "http://[fd00::1]/"])
    assert not any(hosts.trusts(URL(url)) for url in ["http://a.minio.corp/", "http://10.0.0.50/", "http://corp/"])


@pytest.mark.parametrize(
    "allowed",
    ["minio.corp", 5, [5], [""], ["http://minio"], ["minio:9000"], ["minio/x"], ["a b"], ["user@h"]],
    ids=repr,
)
def test_what_is_no_list_of_hosts_is_refused(allowed):
    with pytest.raises(ConfigurationError, match="allow_result_hosts"):
        resolve_result_hosts("https://service.example", allowed)


@pytest.mark.fuzz
@given(st.ip_addresses(v=4))
def test_an_address_inside_of_another_is_judged_as_itself(address):
    wrapped = [f"::ffff:{address}", f"64:ff9b::{int(address) >> 16:x}:{int(address) & 0xFFFF:x}"]
    assert {is_public(str(address))} == {is_public(each) for each in wrapped}


@pytest.mark.fuzz
@given(st.text(max_size=40) | st.ip_addresses().map(str))
def test_any_host_is_judged_without_an_error(host):
    try:
        local = not ipaddress.ip_address(host).is_global
    except ValueError:
        local = False
    if local:
        assert is_local(host)
    assert isinstance(is_local(host), bool)
