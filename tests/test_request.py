"""A request is known again in every process and by every version: its fingerprint is on disk."""

from __future__ import annotations

import pytest

from crawlkit.request import Request, fingerprint, host_of

FOUND = [
    (Request("https://a.example/"), 9036103942708129340),
    (Request("https://a.example/é?b=1", priority=3, depth=2), 6511031419796947663),
    (Request("https://a.example/", method="POST", body=b"x"), 2859725668991881208),
    (Request("https://a.example/", method="HEAD"), -2377924016449940588),
    (Request("https://a.example/", unique_key="one"), -8578701381729949842),
]


@pytest.mark.parametrize(("request_", "number"), FOUND)
def test_a_fingerprint_is_for_ever(request_: Request, number: int) -> None:
    assert fingerprint(request_) == number
    assert fingerprint(request_) == number  # nothing of the first is left in the second


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example/", "a.example"),
        ("https://a.example", "a.example"),
        ("http://a.example:8080/b/c?d=http://e.example/", "a.example:8080"),
        ("http://[::1]:80/", "[::1]:80"),
        ("https://a.example/://b.example/", "a.example"),
    ],
)
def test_a_host_is_what_stands_between_the_scheme_and_the_path(url: str, host: str) -> None:
    assert host_of(url) == host
