"""Hops: what a redirect makes of a request, and what it leaves behind."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from crawlkit.http.hops import Hop, may_travel, origin_of

URL = "https://shop.example/a"


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        (301, "GET", "GET"),
        (301, "POST", "GET"),
        (301, "PUT", "PUT"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
    ],
)
def test_method_and_body_change_as_the_fetch_standard_has_it(
    status: int, method: str, becomes: str
) -> None:
    headers = CIMultiDict({"Content-Type": "text/x", "Content-Language": "de", "Accept": "a/b"})
    hop = Hop(URL, method, b"x", headers).follow("https://shop.example/b", status)
    assert hop.method == becomes
    assert hop.body == (b"x" if method == becomes else None)
    assert hop.headers is not None
    assert ("content-type" in hop.headers) == (method == becomes)
    assert hop.headers["Accept"] == "a/b"
    assert headers["Content-Type"] == "text/x"


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("https://shop.example/other?x", True),
        ("http://shop.example/a", False),
        ("https://shop.example:8443/a", False),
        ("https://www.shop.example/a", False),
        ("https://shop.example.evil.example/a", False),
    ],
)
def test_what_may_be_secret_stays_with_the_origin_that_it_is_for(url: str, is_same: bool) -> None:
    secret = {
        "Authorization": "Bearer x",
        "Cookie": "a=1",
        "X-Api-Key": "k",
        "Referer": "http://x/",
    }
    harmless = {"Accept": "a/b", "User-Agent": "me", "Sec-Fetch-Mode": "navigate"}
    hop = Hop(URL, headers=CIMultiDict(secret | harmless)).follow(url, 302)
    assert hop.headers is not None
    assert all((name in hop.headers) == is_same for name in secret)
    assert all(name in hop.headers for name in harmless)


def test_what_was_left_behind_does_not_come_back() -> None:
    hop = Hop(URL, headers=CIMultiDict({"Authorization": "x"}))
    back = hop.follow("https://other.example/", 302).follow(URL, 302)
    assert back.headers is None


def test_a_redirect_may_lead_to_private_addresses_only_where_it_is_said() -> None:
    hop = Hop(URL, is_private=True)
    assert not hop.follow("http://10.0.0.1/", 302).is_private
    assert hop.follow("http://10.0.0.1/", 302, is_private=True).is_private


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a.example/b", "http://a.example"),
        ("https://a.example:8/", "https://a.example:8"),
        ("http://[::1]:80/x", "http://[::1]:80"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_names_of_headers_are_the_same_in_any_case() -> None:
    assert may_travel("ACCEPT-language")
    assert may_travel("SEC-CH-UA")
    assert not may_travel("AUTHORIZATION")
