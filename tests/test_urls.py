"""URLs: one spelling for each, joined fast and exactly."""

from __future__ import annotations

import re
import string
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from crawlkit.errors import UrlError, UsageError
from crawlkit.urls import MAX_URL_LENGTH, Base, canonical, read_urls, registrable_domain

# RFC 3986, written down independently of the code: what a canonical URL may consist of.
CANONICAL = re.compile(
    r"https?://(?:[a-z0-9_.\-]+|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?"
    r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-F]{2})*)+"
    r"(?:\?(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-F]{2})+)?"
)

# --- examples ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("http://example.com", "http://example.com/"),
        ("http://example.com/", "http://example.com/"),
        ("HTTPS://EXAMPLE.Com/Path?Q=A", "https://example.com/Path?Q=A"),
        ("http://example.com?x=1", "http://example.com/?x=1"),
        # ports
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("http://example.com:00080/", "http://example.com/"),
        ("http://example.com:08080/", "http://example.com:8080/"),
        ("http://example.com:/", "http://example.com/"),
        ("http://example.com:65535/", "http://example.com:65535/"),
        # fragment and query
        ("http://example.com/a#b?c", "http://example.com/a"),
        ("http://example.com#b", "http://example.com/"),
        ("http://example.com/a?", "http://example.com/a"),
        ("http://example.com/a?#b", "http://example.com/a"),
        ("http://example.com/a??", "http://example.com/a??"),
        ("http://example.com/?b=2&a=1&b=1", "http://example.com/?b=2&a=1&b=1"),
        # percent-encoding
        ("http://h.example/%7ejoe/%41%2d%5F%2E", "http://h.example/~joe/A-_."),
        ("http://h.example/%c3%a9%2f%3f", "http://h.example/%C3%A9%2F%3F"),
        ("http://h.example/é/日本?q=é", "http://h.example/%C3%A9/%E6%97%A5%E6%9C%AC?q=%C3%A9"),
        ("http://h.example/100%/%zz%4", "http://h.example/100%25/%25zz%254"),
        ("http://h.example/%2%35", "http://h.example/%2525"),
        ("http://h.example/a b?c d+e%20f", "http://h.example/a%20b?c%20d+e%20f"),
        (
            'http://h.example/"<>^`{|}[]?"<>^`{|}[]\\',
            "http://h.example/%22%3C%3E%5E%60%7B%7C%7D%5B%5D?%22%3C%3E%5E%60%7B%7C%7D%5B%5D%5C",
        ),
        ("http://h.example/!$&'()*+,;=:@", "http://h.example/!$&'()*+,;=:@"),
        ("http://h.example/\ud800x\x00\x7f", "http://h.example/%EF%BF%BDx%00%7F"),
        # dot segments, empty segments
        ("http://h.example/a/./b/../c", "http://h.example/a/c"),
        ("http://h.example/a/b/..", "http://h.example/a/"),
        ("http://h.example/a/b/.", "http://h.example/a/b/"),
        ("http://h.example/../..", "http://h.example/"),
        ("http://h.example/a/b/%2e%2E/c/.%2e/d", "http://h.example/a/d"),
        ("http://h.example/a//b/", "http://h.example/a//b/"),
        ("http://h.example/..//b", "http://h.example//b"),
        ("http://h.example/a//../b", "http://h.example/a/b"),
        ("http://h.example/.well-known/...", "http://h.example/.well-known/..."),
        ("http://h.example/a?b/../c", "http://h.example/a?b/../c"),
        # as browsers read it (WHATWG); the expected values were compared with theirs
        (" \x00\x1f http://h.example/a \n", "http://h.example/a"),
        ("ht\ttp://h.ex\nample/\t b\r\n c", "http://h.example/%20b%20c"),
        ("HTTP:\\\\h.example\\a\\b?c\\d", "http://h.example/a/b?c%5Cd"),
        ("http:h.example", "http://h.example/"),
        ("http:/h.example/a", "http://h.example/a"),
        ("http:////h.example/a", "http://h.example/a"),
        ("http://@h.example/", "http://h.example/"),
        ("http://:@h.example/", "http://h.example/"),
        # hosts
        ("http://h%41.example/", "http://ha.example/"),
        ("http://faß.example/", "http://xn--fa-hia.example/"),
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
        ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
        ("http://☃.net/", "http://xn--n3h.net/"),
        ("http://日本語。jp/", "http://xn--wgv71a119e.jp/"),
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/"),
        ("http://a_b.h.example./", "http://a_b.h.example./"),
        ("http://localhost:8000/", "http://localhost:8000/"),
        ("http://1.2.3.4./", "http://1.2.3.4/"),
        ("http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1/"),
        ("http://0x7F.1/", "http://127.0.0.1/"),
        ("http://017700000001/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://1.65535/", "http://1.0.255.255/"),
        ("http://0x/", "http://0.0.0.0/"),
        ("http://[::1]:80/", "http://[::1]/"),
        ("http://[2001:DB8:0:0:0:0:0:1]:8080/", "http://[2001:db8::1]:8080/"),
        ("http://[1:0:0:2:0:0:0:3]/", "http://[1:0:0:2::3]/"),
        ("http://[1:0:2:3:4:5:6:7]/", "http://[1:0:2:3:4:5:6:7]/"),
        ("http://[0:0:1:0:0:2:3:4]/", "http://[::1:0:0:2:3:4]/"),
        ("http://[1:0:0:2:3:0:0:4]/", "http://[1::2:3:0:0:4]/"),
        ("http://[1:2:3:4:5:6:0:0]/", "http://[1:2:3:4:5:6::]/"),
        ("http://[0:0:0:0:0:0:0:0]/", "http://[::]/"),
        ("http://[::ffff:192.168.1.1]/", "http://[::ffff:c0a8:101]/"),
    ],
)
def test_one_address_has_one_spelling(written: str, expected: str) -> None:
    assert canonical(written) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "no scheme"),
        ("example.com/a", "no scheme"),
        ("//example.com/", "no scheme"),
        ("ftp://example.com/", "its scheme is 'ftp'"),
        ("mailto:a@example.com", "its scheme is 'mailto'"),
        ("localhost:8000/", "its scheme is 'localhost'; begin it with https:// or http://"),
        ("http://", "no host"),
        ("http:///", "no host"),
        ("http://:80/", "no host"),
        ("http://example.com:port/", "port is not a number"),
        ("http://example.com:8_0/", "port is not a number"),
        ("http://example.com:٣/", "port is not a number"),
        ("http://example.com:-1/", "port is not a number"),
        ("http://a:1:2/", "port is not a number"),
        ("http://example.com:65536/", "port is above 65535"),
        (f"http://example.com:{'9' * 5000}/", "port is above 65535"),
        ("http://example.com:0/", "port is 0"),
        ("http://{{host}}/", "host is no valid name"),
        ("http://'+host+'/", "host is no valid name"),
        ("http://a b/", "host is no valid name"),
        ("http://a..b/", "host is no valid name"),
        ("http://a%00b/", "host is no valid name"),
        ("http://a%2Fb/", "host is no valid name"),
        ("http://a%40b/", "host is no valid name"),
        (f"http://{'a' * 64}.example/", "host is no valid name"),
        (f"http://{'a.' * 126}ab/", "host is no valid name"),
        ("http://\ufffd.example/", "no valid international name"),
        (f"http://{'ö' * 300}/", "no valid international name"),
        ("http://256.1.1.1/", "no valid IPv4"),
        ("http://1.2.3.4.5/", "no valid IPv4"),
        ("http://1.2.3.08/", "no valid IPv4"),
        ("http://a.1/", "no valid IPv4"),
        ("http://1.16777216/", "no valid IPv4"),
        ("http://4294967296/", "no valid IPv4"),
        ("http://[::1/", "port is not a number"),
        ("http://[::g]/", "no valid IPv6"),
        ("http://[fe80::1%25eth0]/", "no valid IPv6"),
        ("http://[1.2.3.4]/", "no valid IPv6"),
        ("http://h.example/" + "a" * MAX_URL_LENGTH, "longer than 8192 characters"),
        ("http://h.example/" + "é" * 2000, "longer than 8192 characters in canonical form"),
        ("http://joe:secret@h.example/", "credentials"),
        ("http://www.bank.example@h.example/", "credentials"),
    ],
)
def test_what_cannot_be_crawled_is_refused_in_one_line_that_says_why(
    written: str, why: str
) -> None:
    with pytest.raises(UrlError, match=why) as caught:
        canonical(written)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400


def test_an_error_message_does_not_tell_the_password() -> None:
    for url in ("http://joe:secret@h.example/", " http:\\\\joe:secret@h/", "http:joe:secret@h"):
        with pytest.raises(UrlError) as caught:
            canonical(url)
        assert "secret" not in str(caught.value)


def test_the_longest_url_is_8_kib() -> None:
    start = "http://h.example/"
    longest = start + "a" * (MAX_URL_LENGTH - len(start))
    assert canonical(longest) == longest
    assert Base(start).join(longest) == longest
    assert Base(longest).join("b") == start + "b"
    assert Base(longest).join("?") == longest
    assert Base(longest).join("?b") is None
    assert Base(start).join("a" * (MAX_URL_LENGTH - len(start))) == longest
    assert Base(start).join("a" * (MAX_URL_LENGTH - len(start) + 1)) is None


# RFC 3986, section 5.4; those with a fragment as they are without it.
RFC_3986 = {
    "g": "http://a/b/c/g",
    "./g": "http://a/b/c/g",
    "g/": "http://a/b/c/g/",
    "/g": "http://a/g",
    "//g": "http://g/",
    "?y": "http://a/b/c/d;p?y",
    "g?y": "http://a/b/c/g?y",
    "g#s": "http://a/b/c/g",
    "g?y#s": "http://a/b/c/g?y",
    ";x": "http://a/b/c/;x",
    "g;x": "http://a/b/c/g;x",
    "g;x?y#s": "http://a/b/c/g;x?y",
    ".": "http://a/b/c/",
    "./": "http://a/b/c/",
    "..": "http://a/b/",
    "../": "http://a/b/",
    "../g": "http://a/b/g",
    "../..": "http://a/",
    "../../": "http://a/",
    "../../g": "http://a/g",
    "../../../g": "http://a/g",
    "../../../../g": "http://a/g",
    "/./g": "http://a/g",
    "/../g": "http://a/g",
    "g.": "http://a/b/c/g.",
    ".g": "http://a/b/c/.g",
    "g..": "http://a/b/c/g..",
    "..g": "http://a/b/c/..g",
    "./../g": "http://a/b/g",
    "./g/.": "http://a/b/c/g/",
    "g/./h": "http://a/b/c/g/h",
    "g/../h": "http://a/b/c/h",
    "g;x=1/./y": "http://a/b/c/g;x=1/y",
    "g;x=1/../y": "http://a/b/c/y",
    "g?y/./x": "http://a/b/c/g?y/./x",
    "g?y/../x": "http://a/b/c/g?y/../x",
    "g#s/./x": "http://a/b/c/g",
    "g#s/../x": "http://a/b/c/g",
    "http:g": "http://a/b/c/g",  # as for compatibility, and in WHATWG
}


@pytest.mark.parametrize(("href", "expected"), RFC_3986.items())
def test_links_resolve_as_in_rfc_3986(href: str, expected: str) -> None:
    assert Base("http://a/b/c/d;p?q").join(href) == expected


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("\\a\\b", "https://h.example/a/b"),
        ("\\\\other.example\\a", "https://other.example/a"),
        ("///other.example/a", "https://other.example/a"),
        ("https:a", "https://h.example/x/a"),
        ("https:/a", "https://h.example/a"),
        ("http:a", "http://a/"),
        ("HTTPS://H.example:443/%7e", "https://h.example/~"),
        (" a b\n", "https://h.example/x/a%20b"),
        (":a", "https://h.example/x/:a"),
        ("%3a:b", "https://h.example/x/%3A:b"),
        ("1:b", "https://h.example/x/1:b"),
        ("./a:b", "https://h.example/x/a:b"),
        ("a/b:c", "https://h.example/x/a/b:c"),
        ("../../..//a", "https://h.example//a"),
        ("..//a", "https://h.example//a"),
        ("?", "https://h.example/x/y"),
        ("?b#c", "https://h.example/x/y?b"),
        ("//127.1/a", "https://127.0.0.1/a"),
    ],
)
def test_links_resolve_as_in_browsers(href: str, expected: str) -> None:
    assert Base("https://h.example/x/y?z").join(href) == expected


@pytest.mark.parametrize(
    "href",
    [
        *("", " ", "#", "#part", " #part", "http:", "http:#part"),
        *("mailto:joe@h.example", "javascript:void(0)", "tel:+49", "data:text/html,x", "ftp://h/"),
        *("JavaScript:x", "java\nscript:x", "about:blank", "localhost:80"),
        *("http://", "//", "http://[", "http://a:b/", "http://joe:secret@h.example/", "//{{x}}/y"),
        "x" * (MAX_URL_LENGTH + 1),
        "data:" + "x" * 10_000_000,
    ],
)
def test_a_link_with_nothing_to_crawl_is_none(href: str) -> None:
    assert Base("http://h.example/x/y?z").join(href) is None


def test_a_base_must_be_a_url() -> None:
    assert Base("HTTP://H.example").url == "http://h.example/"
    with pytest.raises(UrlError, match="no scheme"):
        Base("/other/")


@pytest.mark.parametrize("code", range(256))
def test_an_encoding_is_undone_where_the_character_is_unreserved_and_nowhere_else(
    code: int,
) -> None:
    unreserved = string.ascii_letters + string.digits + "-._~"
    expected = chr(code) if chr(code) in unreserved else f"%{code:02X}"
    for spelling in (f"%{code:02X}", f"%{code:02x}"):
        link = f"a{spelling}b?c={spelling}"
        assert Base("http://h.example/").join(link) == f"http://h.example/a{expected}b?c={expected}"


# --- properties --------------------------------------------------------------------------------

NASTY = [
    *("http:", "https:", "HTTP://", "http://", "https://", "//", "/", "///", "\\", "?", "#", ":"),
    *("a", "b.html", "example.com", "EXAMPLE.com", "ß.de", "☃.net", "xn--", "localhost", "_", "-"),
    *(":80", ":443", ":8080", ":0", ":99999", ":00080", "@", "user@", "u:p@", "x=1", "&", "+", "="),
    *("%41", "%2e", "%2E", "%2f", "%zz", "%", "%C3%A9", "%c3", "%7E", "%00", "%25", "%3F"),
    *(".", "..", "./", "../", "/..", "/.", "...", "é", "日本", "\u3002", "\uff11", "\u00ad"),
    *("[::1]", "[::ffff:1.2.3.4]", "[", "]", "0x7f.1", "127.0.0.1", "256", "1.2.3", "01.02", "08"),
    *("\t", "\n", "\r", " ", "\x00", "\x1f", "\x7f", "\u2028", "\ud800", "\udfff", "\U0001f600"),
    *("'", '"', "<", "|", "^", "`", "{", "}", "~", "!", "$", "(", ")", "*", ",", ";"),
    *("mailto:", "javascript:", "data:"),
]
HOSTS = ["a.b", "example.com:8080", "[::1]", "127.0.0.1:8000", "localhost", "xn--bcher-kva.example"]
dirty = st.one_of(st.lists(st.sampled_from(NASTY), max_size=9).map("".join), st.text())
starts = st.sampled_from(["http://", "https://a", "http:/", ""])
dirty_urls = st.builds("{}{}".format, starts, dirty)

segments = st.text(string.ascii_letters + string.digits + "-_~!$&'()*+,=@", min_size=1, max_size=8)
triplets = st.sampled_from(["%20", "%C3%A9", "%2F", "%3A"])
names = st.builds("{}{}{}".format, segments, st.just("") | triplets, segments)
clean_paths = st.lists(names, min_size=1, max_size=4).map("/".join)
clean_queries = st.just("") | st.builds("?{}={}".format, names, names)
clean_fragments = st.just("") | st.just("#part") | st.just("#?/ é")
clean = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "./", "../", "../../", "../../../../", "/"])
    | st.sampled_from(["http", "https"]).flatmap(
        lambda scheme: st.sampled_from([f"{scheme}://{host}/" for host in HOSTS])
    ),
    clean_paths,
    clean_queries,
    clean_fragments,
) | st.builds("?{}{}".format, names, clean_fragments)
bases = st.builds(
    "{}{}/{}{}".format,
    st.sampled_from(["http://", "https://"]),
    st.sampled_from(HOSTS),
    st.sampled_from(["", "x//", "x/y/"]) | clean_paths,
    clean_queries,
)


@settings(max_examples=200, deadline=None)
@given(base=bases, href=clean)
def test_a_clean_link_is_joined_as_the_standard_library_and_yarl_join_it(
    base: str, href: str
) -> None:
    # Both drop empty segments, which are addresses of their own; those are left out.
    assume("//" not in base[8:])
    ours = Base(base).join(href)
    assert ours == urldefrag(urljoin(base, href))[0]
    # yarl's join decodes the path of its base, so that "%20" becomes a space and "%2F" a slash.
    if "%" not in base + href:
        joined = URL(base, encoded=True).join(URL(href, encoded=True))
        assert ours == str(joined.with_fragment(None))


@settings(max_examples=200, deadline=None)
@given(base=bases, href=clean)
def test_the_fast_way_and_the_exact_way_agree_on_clean_links(base: str, href: str) -> None:
    page = Base(base)
    assert page.join(href) == page._join_exactly(href)


@settings(max_examples=500, deadline=None)
@given(base=bases, href=dirty | st.builds("{}{}".format, clean, dirty))
@example(base="http://a.b/x/y", href="a/../b")
@example(base="http://a.b/x/y", href="./.b")
@example(base="http://a.b/x/y", href=".//b")
@example(base="http://a.b/x/y", href="../.")
@example(base="http://a.b/x/y", href="../../:b")
@example(base="http://a.b/x/y", href="http://a.b:80/")
@example(base="http://a.b/x/y", href="http://a.1/")
@example(base="http://a.b/x/y", href="http://256.1.1.1/")
@example(base="http://a.b/x/y", href="http://01.1.1.1/")
@example(base="http://a.b/x/y", href="b?#c")
@example(base="http://a.b/x/y", href="b\n")
def test_the_fast_way_and_the_exact_way_agree_on_dirty_links(base: str, href: str) -> None:
    page = Base(base)
    assert page.join(href) == page._join_exactly(href)


@settings(max_examples=300, deadline=None)
@given(base=dirty_urls | bases, href=dirty | clean | dirty_urls)
def test_join_never_raises_and_gives_canonical_urls(base: str, href: str) -> None:
    try:
        page = Base(base)
    except UrlError:
        assume(False)
    url = page.join(href)
    if url is not None:
        assert CANONICAL.fullmatch(url)
        assert len(url) <= MAX_URL_LENGTH
        assert canonical(url) == url


own = st.builds("{}{}".format, st.just("http://a.b:8080/"), clean_paths | dirty)


@settings(max_examples=500, deadline=None)
@given(
    base=bases | st.just("http://a.b:8080/x/y?z") | st.just("http://[::1]/x/"),
    hrefs=st.lists(dirty | clean | clean_paths | own | st.builds("{}#{}".format, clean, dirty)),
)
@example(base="http://a.b:8080/x/", hrefs=["y", "", "#", "/", "//", "//c", "?d", "a:b", ".", ".."])
@example(base="http://a.b:8080/x/", hrefs=["http://a.b:8080/", "http://a.b:8080", "http://a.b:80/"])
@example(base="http://a.b:8080/x/", hrefs=["http://a.b:8080/./c", "http://a.b:8080//c", "c#/.d"])
@example(
    base="http://a.b:8080/x/", hrefs=["/c/../d", "c/.", "./c", "../c", ".c", "/.c", "c\n", "d"]
)
@example(base="http://a.b:8080/x/", hrefs=["\ud800", "\xe9", "%41", "a b", "c" * 9000, "d"])
@example(base="http://[::1]/x/", hrefs=["http://[::1]/y", "http://[:1]:/y"])
def test_links_are_joined_together_as_one_by_one(base: str, hrefs: list[str]) -> None:
    page = Base(base)
    expected = [url for href in hrefs if (url := page.join(href)) is not None]
    assert Base(base).join_all(hrefs) == expected


@settings(max_examples=300, deadline=None)
@given(dirty_urls | bases | clean)
def test_the_canonical_form_is_stable_and_is_what_goes_over_the_wire(written: str) -> None:
    try:
        url = canonical(written)
    except UrlError:
        assume(False)
    assert CANONICAL.fullmatch(url)
    assert not re.search(r"/\.\.?(?:/|\Z)", url.partition("?")[0])
    assert canonical(url) == url
    # aiohttp sends what yarl holds; with `encoded=True` it holds the very same characters.
    assert str(URL(url, encoded=True)) == url


@pytest.mark.parametrize(
    "href",
    [
        "/",
        "/a/b?x=1",
        "/catalogue/a-light-in-the-attic_1000/index.html",
        "c.html",
        "a/b/c.html?x=1&y=2#part",
        "../c/d.html",
        "../../c/d.html",
        "./c.html",
        "?page=2",
        "/wiki/%C3%9C",
        "http://h.example/a/b",
        "https://www.other.example/a?x=1",
        "http://127.0.0.1:8000/a",
        "http://localhost:8000/a",
    ],
)
def test_common_links_take_the_fast_way(href: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is not left to chance: these never reach the exact way."""

    def refuse(self: Base, href: str) -> str | None:
        raise AssertionError(f"{href} took the exact way")

    page = Base("http://h.example/x/y/z.html")
    expected = page.join(href)
    monkeypatch.setattr(Base, "_join_exactly", refuse)
    assert page.join(href) == expected
    assert expected is not None


@pytest.mark.parametrize(
    "href",
    [
        *("../" * 2700, "a/" * 4000 + " ", "%41" * 2700, "é" * 8000, "%" * 8000),
        *("http://" + "a." * 4000, "http://" + "é" * 250, "http://[" + ":0" * 4000 + "]"),
    ],
)
def test_a_hostile_link_costs_milliseconds(href: str) -> None:
    """A page can hold two thousand of these, and must not stop the crawl for minutes."""
    page = Base("http://h.example/" + "x/" * 2000)
    start = time.process_time()
    for _ in range(20):
        page.join(href)
    assert time.process_time() - start < 20 * 0.02


# --- registrable domains ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("shop.example", "shop.example"),
        ("www.eu.shop.example:8080", "shop.example"),
        ("www.shop.co.uk", "shop.co.uk"),
        ("www.shop.co.uk.", "shop.co.uk"),
        ("joe.github.io", "joe.github.io"),
        ("www.joe.github.io", "joe.github.io"),
        ("a.b.kobe.jp", "a.b.kobe.jp"),
        ("www.city.kobe.jp", "city.kobe.jp"),
        ("www.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
        ("localhost", "localhost"),
        ("localhost:8000", "localhost"),
        ("co.uk", "co.uk"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:db8::1]:8080", "[2001:db8::1]"),
        ("", ""),
    ],
)
def test_the_registrable_domain_follows_the_public_suffix_list(host: str, expected: str) -> None:
    assert registrable_domain(host) == expected


def test_the_public_suffix_list_is_read_only_when_it_is_needed() -> None:
    code = (
        "import sys, crawlkit.discovery.scope, crawlkit.urls as urls\n"
        "assert 'publicsuffixlist' not in sys.modules\n"
        "urls.registrable_domain('www.shop.example')\n"
        "assert 'publicsuffixlist' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


SUFFIXES_IN_A_THREAD = """
import asyncio, threading
from crawlkit import urls
from crawlkit.discovery.scope import Scope
from tests.scripted import http, opened, private, running
from crawlkit.sessions import Session
from publicsuffixlist import PublicSuffixList

threads = []
known = PublicSuffixList.__init__
def init(self, *args, **options):
    threads.append(threading.current_thread())
    known(self, *args, **options)
PublicSuffixList.__init__ = init

async def scope():
    await Scope("same-host").open()
    assert not urls.knows_suffixes()
    await Scope("same-domain").open()

async def cookies():
    async with running() as server, opened() as fetcher:
        server.answers["/"] = http(b"", "200 OK", "Set-Cookie: a=1")
        server.answers["/all"] = http(b"", "200 OK", "Set-Cookie: a=1; Domain=shop.example")
        session = Session("a", fetcher._clock)
        await fetcher.fetch(private(server.url("/")), session)
        assert not urls.knows_suffixes()
        await asyncio.gather(
            *(fetcher.fetch(private(server.url("/all")), session) for _ in range(5))
        )

asyncio.run(WAY())
assert urls.knows_suffixes()
assert urls.registrable_domain("www.shop.co.uk") == "shop.co.uk"
assert len(threads) == 1 and threads[0] is not threading.main_thread(), threads
"""


@pytest.mark.parametrize("way", ["scope", "cookies"])
def test_the_public_suffix_list_is_read_once_and_beside_the_event_loop(way: str) -> None:
    code = SUFFIXES_IN_A_THREAD.replace("WAY", way)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- a file of URLs -----------------------------------------------------------------------------


def test_a_file_of_urls_is_read_line_by_line_and_bad_lines_are_named(tmp_path: Path) -> None:
    file = tmp_path / "urls.txt"
    file.write_bytes(
        b"\xef\xbb\xbfhttp://a.example\r\n"
        b"\n"
        b"# a comment\n"
        b"   # and another\n"
        b"  HTTPS://B.example/\xc3\xa9#x  \n"
        b"b.example\n"
        b"http://c.example/\xff\n"
        b"http://d.example/"
    )
    good = {}
    bad = {}
    for number, url in read_urls(file):
        if isinstance(url, UrlError):
            bad[number] = str(url)
        else:
            good[number] = url
    assert good == {
        1: "http://a.example/",
        5: "https://b.example/%C3%A9",
        8: "http://d.example/",
    }
    assert bad == {
        6: f"{file}:6: 'b.example' cannot be crawled: it has no scheme; "
        "begin it with https:// or http://",
        7: f"{file}:7: the line is not UTF-8; save the file as UTF-8",
    }


def test_an_endless_line_is_one_bad_line_and_the_next_is_read(tmp_path: Path) -> None:
    file = tmp_path / "urls.txt"
    for length in (65_535, 65_536, 65_537, 131_072, 300_000):
        file.write_text("x" * length + "\nhttp://a.example/\n")
        (first, error), second = read_urls(file)
        assert first == 1
        assert "longer than 8192 characters" in str(error)
        assert len(str(error)) < 1000
        assert second == (2, "http://a.example/")


def test_a_file_of_urls_is_streamed(tmp_path: Path) -> None:
    file = tmp_path / "urls.txt"
    file.write_text("http://a.example/\n" * 100_000)
    lines = read_urls(str(file))
    assert next(lines) == (1, "http://a.example/")
    file.write_text("")
    assert sum(1 for _ in lines) < 99_999  # what was not read yet is not there


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_a_usage_error_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: (No such file|Is a directory)") as error:
        list(read_urls(tmp_path / name))
    assert "\n" not in str(error.value)
