"""URLs in replies are read byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from yarl import URL

from qwen_edit_async.protocol.urls import absolute, expiry_of, resolve

BASE = URL("https://api.example/v1/task/t1?x=1", encoded=True)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://r.example:9/a%2Fb%7e/../~c?sig=a%2f%2B=&y=+", "https://r.example:9/a%2Fb%7e/../~c?sig=a%2f%2B=&y=+"),
        ("//r.example/a%2Fb?sig=%3d", "https://r.example/a%2Fb?sig=%3d"),
        ("/out/a%7E.png?sig=%3d", "https://api.example/out/a%7E.png?sig=%3d"),
        ("a%7E.png?sig=%3d", "https://api.example/v1/task/a%7E.png?sig=%3d"),
        ("../a.png", "https://api.example/v1/a.png"),
        (' https://r.example/a "b" 你\n', "https://r.example/a%20%22b%22%20%E4%BD%A0"),
        ("/100%.png", "https://api.example/100%.png"),
        ("/caf\udce9.png", "https://api.example/caf%E9.png"),
        ("http://[fd00::1]/[a]", "http://[fd00::1]/[a]"),
    ],
)
def test_a_url_is_read_byte_for_byte_and_relative_to_the_reply_that_names_it(text, url):
    assert str(resolve(text, BASE)) == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("HTTPS://r.example:443/ä", "HTTPS://r.example:443/ä"),
        ("/ä", "https://api.example/%C3%A4"),
        ("ftp:a", "ftp:a"),
        ("/\ud800", "/\ud800"),
    ],
)
def test_only_a_relative_url_is_changed_before_it_is_fetched(text, url):
    assert absolute(text, str(BASE)) == url


@pytest.mark.parametrize("folder", ["x%2Fy/z", "%20/%C3%A4/z", "%3F/z"])
def test_the_escapes_of_the_base_stay(folder):
    base = URL(f"https://api.example/{folder}", encoded=True)
    assert str(resolve("b%2Fc.png", base)) == f"https://api.example/{folder.rpartition('/')[0]}/b%2Fc.png"


def test_half_a_character_is_not_a_url():
    with pytest.raises(ValueError, match="surrogates"):
        resolve("/\ud800", BASE)


@pytest.mark.parametrize(
    ("query", "expiry"),
    [
        ("?Expires=1700000000&Signature=a", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("?expires=1700000000", None),
        ("?Expires=soon", None),
        ("?Expires=99999999999999999", None),
        ("?Expires=9" + "9" * 99, None),
        ("", None),
    ],
)
def test_a_signed_url_states_when_it_expires(query, expiry):
    assert expiry_of(f"https://r.example/a.png{query}") == expiry


def test_text_that_is_not_a_url_states_no_expiry():
    assert expiry_of("http://[bad/?Expires=1") is None
