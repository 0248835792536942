"""Scope: which links of a page are followed."""

from __future__ import annotations

import re
import time
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crawlkit.discovery.scope import Scope
from crawlkit.errors import OptionError

PAGE = "https://www.shop.example/books/"


@pytest.mark.parametrize(
    ("url", "followed_by"),
    [
        ("https://www.shop.example/", "same-host same-origin same-domain all"),
        ("http://www.shop.example/", "same-host same-domain all"),
        ("https://www.shop.example:8443/", "same-domain all"),
        ("https://blog.shop.example/", "same-domain all"),
        ("https://shop.example/", "same-domain all"),
        ("https://www.shop.example.evil.test/", "all"),
        ("https://xwww.shop.example/", "same-domain all"),
        ("https://other.example/", "all"),
        ("https://www.shop.examples/", "all"),
    ],
)
@pytest.mark.parametrize("kind", ["same-host", "same-origin", "same-domain", "all"])
def test_a_scope_says_how_far_from_its_page_a_link_may_lead(
    kind: str, url: str, followed_by: str
) -> None:
    expected = None if kind in followed_by.split() else "scope"
    assert Scope(kind).reason(url, PAGE) == expected


def test_sites_that_share_a_public_suffix_are_strangers() -> None:
    scope = Scope("same-domain")
    assert scope.reason("https://eve.github.io/", "https://joe.github.io/") == "scope"
    assert scope.reason("https://b.co.uk/", "https://a.co.uk/") == "scope"
    assert scope.reason("http://127.0.0.2/", "http://127.0.0.1/") == "scope"
    assert scope.reason("http://127.0.0.1:81/", "http://127.0.0.1:80/") is None


def test_a_page_without_a_path_widens_nothing() -> None:
    assert Scope().reason("https://other.example/", "https://shop.example") == "scope"


def test_links_stay_on_their_host_by_default() -> None:
    assert Scope() == Scope(kind="same-host", include=(), exclude=())


@pytest.mark.parametrize(
    ("glob", "matches", "others"),
    [
        (
            "https://www.shop.example/books/*",
            ["https://www.shop.example/books/1.html", "https://www.shop.example/books/?p=2"],
            ["https://www.shop.example/books/a/b", "https://www.shop.example/books"],
        ),
        (
            "https://www.shop.example/books/**",
            ["https://www.shop.example/books/", "https://www.shop.example/books/a/b?c=/d"],
            ["https://www.shop.example/books", "https://www.shop.example/x/books/"],
        ),
        (
            "**/books/**",
            ["https://a.test/books/", "http://b.test/x/books/y/z"],
            ["https://a.test/books", "https://a.test/notebooks/x"],
        ),
        (
            "https://a.test/x/**/y",
            ["https://a.test/x/y", "https://a.test/x/1/y", "https://a.test/x/1/2/y"],
            ["https://a.test/xy", "https://a.test/x/1y"],
        ),
        (
            "https://a.test/page-?",
            ["https://a.test/page-1"],
            ["https://a.test/page-", "https://a.test/page-/", "https://a.test/page-10"],
        ),
        (
            "https://a.test/list?page=*",
            ["https://a.test/list?page=2"],
            ["https://a.test/list", "https://a.test/listpage=2"],
        ),
        (
            "**.{jpg,png}",
            ["https://a.test/x/y.jpg", "https://a.test/y.png"],
            ["https://a.test/jpg"],
        ),
        ("http{,s}://a.test/**", ["http://a.test/", "https://a.test/x"], ["ftp://a.test/"]),
        ("**/{a,b/{c,d*}}", ["https://h.test/a", "https://h.test/b/dd"], ["https://h.test/b/cc"]),
        ("https://*.test/a,b", ["https://x.test/a,b"], ["https://x.test/a"]),
        ("https://a.test/a.b(c)+$", ["https://a.test/a.b(c)+$"], ["https://a.test/aXb(c)+$"]),
        ("https://*.A.test", ["https://b.a.test/"], ["https://b.a.test/x", "https://a.test/"]),
        ("https://**", ["https://b.a.test/", "https://a.test/x/y"], ["http://a.test/"]),
        ("HTTPS://A.Test", ["https://a.test/"], ["https://a.test/x"]),
        ("https://bücher.test/é", ["https://xn--bcher-kva.test/%C3%A9"], []),
        ("HTTPS://A.Test/É/%7e*", ["https://a.test/%C3%89/~x"], ["https://a.test/%C3%89/x"]),
        ("http://[::1]:8080/**", ["http://[::1]:8080/x"], ["http://[::2]:8080/x"]),
        ("****", ["https://a.test/x/y"], []),
        ("**x*y", ["https://a.test/x/xy", "https://a.test/x1/x2y"], ["https://a.test/x/y"]),
        ("re:/books/[0-9]+$", ["https://a.test/books/12"], ["https://a.test/books/12x"]),
        (re.compile("BOOKS", re.IGNORECASE), ["https://a.test/books/"], ["https://a.test/"]),
    ],
)
def test_a_pattern_matches_what_it_is_documented_to(
    glob: str | re.Pattern[str], matches: list[str], others: list[str]
) -> None:
    include = Scope("all", include=[glob])
    exclude = Scope("all", exclude=[glob])
    for url in matches:
        assert include.reason(url, PAGE) is None
        assert exclude.reason(url, PAGE) == "exclude"
    for url in others:
        assert include.reason(url, PAGE) == "include"
        assert exclude.reason(url, PAGE) is None


def test_exclude_wins_over_include_and_neither_widens_the_scope() -> None:
    scope = Scope(include=["**/books/**", "**/music/**"], exclude=["re:print"])
    assert scope.reason("https://www.shop.example/books/1", PAGE) is None
    assert scope.reason("https://www.shop.example/music/1", PAGE) is None
    assert scope.reason("https://www.shop.example/books/print", PAGE) == "exclude"
    assert scope.reason("https://www.shop.example/toys/print", PAGE) == "exclude"
    assert scope.reason("https://www.shop.example/toys/1", PAGE) == "include"
    assert scope.reason("https://other.example/books/1", PAGE) == "scope"
    assert scope.reason("https://other.example/books/print", PAGE) == "scope"


def test_a_pattern_that_stands_alone_is_one_pattern() -> None:
    scope = Scope("all", include="**/a", exclude=re.compile("b"))
    assert scope.include == ("**/a",)
    assert scope.reason("https://h.test/a", PAGE) is None
    assert scope.reason("https://h.test/b/a", PAGE) == "exclude"


def test_a_scope_cannot_be_changed_and_equal_ones_are_equal() -> None:
    scope = Scope("all", include=["**/a"])
    assert scope == Scope("all", include=("**/a",))
    assert hash(scope) == hash(Scope("all", include=("**/a",)))
    assert repr(scope) == "Scope(kind='all', include=('**/a',), exclude=())"
    with pytest.raises(FrozenInstanceError):
        scope.kind = "same-host"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "same_host"}, "scope 'same_host' does not exist; did you mean 'same-host'?"),
        ({"kind": "Same-Domain"}, "did you mean 'same-domain'?"),
        ({"kind": "xyz"}, "choose one of same-host, same-domain, same-origin, all"),
        ({"kind": None}, "choose one of"),
        ({"include": "/books/**"}, "compared with the whole URL; write '**/books/**'"),
        ({"include": ["shop.example/*"]}, "write '**shop.example/*'"),
        ({"include": ["*filter=*"]}, "'*' does not stand for '/' in it; write '**filter=*'"),
        ({"include": ["http*/a/"]}, "'*' does not stand for '/' in it"),
        ({"include": [""]}, "include '' can match no URL"),
        ({"include": ["http://a b/"]}, "can match no URL: 'http://a b/' cannot be crawled"),
        ({"exclude": ["**/[0-9]*"]}, "'[' never stands in one; write a regular expression, 're:"),
        ({"exclude": ["**#top"]}, "'#' never stands in one"),
        ({"exclude": [r"**\*"]}, "never stands in one"),
        ({"exclude": ["**/{a,b"]}, "braces do not pair"),
        ({"exclude": ["**/a}{"]}, "braces do not pair"),
        ({"exclude": ["https://bücher.test/*"]}, "write it in its form with xn--"),
        ({"exclude": ["re:("]}, "exclude 're:(' is no regular expression: missing )"),
        ({"exclude": ["re:a{99999999999999999999}"]}, "is no regular expression"),
        ({"exclude": ["re:" + "(" * 10_000]}, "is no regular expression"),
        ({"include": [re.compile(b"a")]}, "is no pattern; give a glob or 're:...'"),
        ({"include": [1]}, "include 1 is no pattern"),
        ({"include": 1}, "include 1 is no pattern"),
        ({"include": None}, "include None is no pattern"),
    ],
)
def test_a_wrong_option_is_refused_with_the_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Scope(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def _matches(glob: str, text: str, after_slash: bool = True) -> bool:
    """The documented meaning of a glob, tried out letter by letter: slow, and evidently right."""
    if not glob:
        return not text
    ends = range(len(text) + 1)
    if after_slash and glob.startswith("**/"):
        return any(
            _matches(glob[3:], text[end:]) for end in ends if end == 0 or text[end - 1] == "/"
        )
    if glob.startswith("**"):
        return any(_matches(glob[2:], text[end:], False) for end in ends)
    if glob.startswith("*"):
        return any(_matches(glob[1:], text[end:], False) for end in ends if "/" not in text[:end])
    if not text or (text[0] == "/" if glob[0] == "?" else text[0] != glob[0]):
        return False
    return _matches(glob[1:], text[1:], glob[0] == "/")


parts = st.sampled_from(["*", "**", "/**/", "?", "a", "b", "/", "ab", "a/"])
globs = st.lists(parts, max_size=7).map("".join).map(lambda glob: re.sub(r"\*{3,}", "**", glob))


@settings(max_examples=500, deadline=None)
@given(glob=globs, text=st.text("aab/", max_size=9))
@example(glob="**a*b", text="a/ab")
@example(glob="*a/b*", text="aa/b")
@example(glob="a/**/**/b", text="a/b")
@example(glob="**/*a", text="b/a")
def test_the_linear_match_of_a_glob_is_its_documented_meaning(glob: str, text: str) -> None:
    url = f"http://h/{text}"
    expected = None if _matches(glob, text) else "include"
    # The "?" keeps a glob without wildcards from being taken for a URL, and normalised.
    assert Scope("all", include=[f"http://?/{glob}"]).reason(url, PAGE) == expected


@pytest.mark.parametrize(
    "glob", ["**/a/**/b/**/c/**", "**/a/**/a/**/b/*", "https://h.test/*a*a*a*b", "**a**a**a**b"]
)
def test_a_site_cannot_stall_a_glob(glob: str) -> None:
    """A backtracking match of these takes hours: it grows with the third power of the length."""
    scope = Scope("all", exclude=[glob])
    for url in ("https://h.test/" + "a/" * 4000, "https://h.test/" + "a" * 8000):
        start = time.process_time()
        assert scope.reason(url, PAGE) is None
        assert time.process_time() - start < 1
