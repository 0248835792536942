"""Cookies go where they belong (RFC 6265), and nowhere else."""

from __future__ import annotations

import pytest

from crawlkit.checkpoint import decode, encode
from crawlkit.http.cookies import MAX_COOKIES, MAX_HEADER, MAX_PER_DOMAIN, Cookie, CookieJar
from crawlkit.testing import ManualClock

SITE = "http://www.shop.example/a/b?q=/x"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)  # 14 November 2023


@pytest.fixture
def jar(clock: ManualClock) -> CookieJar:
    return CookieJar(clock)


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        ("foo=bar", "foo=bar"),
        ("  A  = BC  ;foo;;;   bar", "A=BC"),
        ("A=== BC", "A=== BC"),
        ('a="b c"; Path=/', 'a="b c"'),
        ('a="zz;pp"', 'a="zz'),
        ("z=y, a=b", "z=y, a=b"),
        ("x=", "x="),
        ("π=Grüße", "π=Grüße"),
        # What is no cookie at all.
        ("foo", ""),
        ("=bar", ""),
        ("", ""),
        ("; a=b", ""),
        ("a=b\x00c", ""),
        ("a=b\udcffc", ""),
        ("a\x1f=b", ""),
        ("a=" + "b" * 5000, ""),
        # For how long.
        ("a=b; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "a=b"),
        ("a=b; Expires=Thu, 01 Jan 1970 00:00:00 GMT", ""),
        ("a=b; expires=Thursday, 01-Jan-70 00:00:00 GMT", ""),
        ("a=b; Expires=whenever", "a=b"),
        ("a=b; Max-Age=10", "a=b"),
        ("a=b; max-age=0", ""),
        ("a=b; Max-Age=-1", ""),
        ("a=b; Max-Age=soon", "a=b"),
        ("a=b; Max-Age=" + "9" * 5000, "a=b"),
        ("a=b; Max-Age=10; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "a=b"),
        ("a=b; Max-Age=0; Expires=Wed, 21 Oct 2026 07:28:00 GMT", ""),
        # Where on the host.
        ("a=b; Path=/", "a=b"),
        ("a=b; Path=/a", "a=b"),
        ("a=b; Path=/a/", "a=b"),
        ("a=b; Path=/a/b", "a=b"),
        ("a=b; Path=/a/b/", ""),
        ("a=b; Path=/a/bc", ""),
        ("a=b; Path=/x", ""),
        ("a=b; Path=relative", "a=b"),
        ("a=b; Path=/x; Path=/", "a=b"),
        # On which hosts.
        ("a=b; Domain=www.shop.example", "a=b"),
        ("a=b; Domain=.Shop.Example", "a=b"),
        ("a=b; Domain=", "a=b"),
        ("a=b; Domain=x.shop.example", ""),
        ("a=b; Domain=op.example", ""),
        ("a=b; Domain=example", ""),
        ("a=b; Domain=other.test", ""),
        # Over which schemes.
        ("a=b; Secure", ""),
        ("__Secure-a=b", ""),
        ("__Host-a=b; Path=/", ""),
        ("a=b; HttpOnly; SameSite=Lax; Partitioned; x=y", "a=b"),
    ],
)
def test_a_cookie_is_read_as_browsers_read_it(jar: CookieJar, header: str, sent: str) -> None:
    jar.store(SITE, [header])
    assert jar.header(SITE) == sent


@pytest.mark.parametrize(
    ("stored_at", "header", "asked", "is_sent"),
    [
        ("http://shop.example/", "a=b", "http://shop.example/", True),
        ("http://shop.example/", "a=b", "http://shop.example:8080/", True),
        ("http://shop.example/", "a=b", "https://shop.example/", True),
        ("http://shop.example/", "a=b", "http://www.shop.example/", False),
        ("http://www.shop.example/", "a=b", "http://shop.example/", False),
        ("http://www.shop.example/", "a=b; Domain=shop.example", "http://shop.example/", True),
        ("http://shop.example/", "a=b; Domain=shop.example", "http://x.shop.example/", True),
        ("http://shop.example/", "a=b; Domain=shop.example", "http://myshop.example/", False),
        ("https://shop.example/", "a=b; Secure", "https://shop.example/", True),
        ("https://shop.example/", "a=b; Secure", "http://shop.example/", False),
        ("https://shop.example/", "__Secure-a=b; Secure", "https://shop.example/", True),
        ("https://shop.example/", "__Secure-a=b", "https://shop.example/", False),
        ("https://shop.example/x", "__Host-a=b; Secure; Path=/", "https://shop.example/", True),
        ("https://shop.example/x", "__Host-a=b; Secure", "https://shop.example/x", True),
        ("https://shop.example/x/y", "__Host-a=b; Secure", "https://shop.example/x/y", False),
        (
            "https://a.shop.example/",
            "__Host-a=b; Secure; Path=/; Domain=shop.example",
            "https://a.shop.example/",
            False,
        ),
        ("http://shop.example/a/b", "a=b", "http://shop.example/a/c", True),
        ("http://shop.example/a/b", "a=b", "http://shop.example/ab", False),
        ("http://shop.example", "a=b", "http://shop.example/x", True),
        ("http://127.0.0.1:8000/", "a=b", "http://127.0.0.1:9000/", True),
        ("http://127.0.0.1/", "a=b; Domain=127.0.0.1", "http://127.0.0.1/", True),
        ("http://127.0.0.1/", "a=b; Domain=0.0.1", "http://127.0.0.1/", False),
        ("http://[::1]:8000/", "a=b", "http://[::1]/", True),
        ("http://localhost/", "a=b; Domain=localhost", "http://localhost/", True),
        ("http://localhost/", "a=b; Domain=localhost", "http://x.localhost/", False),
    ],
)
def test_a_cookie_is_sent_where_it_belongs(
    jar: CookieJar, stored_at: str, header: str, asked: str, is_sent: bool
) -> None:
    jar.store(stored_at, [header])
    assert jar.header(asked) == (header.partition(";")[0] if is_sent else "")


@pytest.mark.parametrize(
    ("host", "domain"),
    [("shop.co.uk", "co.uk"), ("joe.github.io", "github.io"), ("shop.com", "com")],
)
def test_nobody_sets_a_cookie_for_a_public_suffix(jar: CookieJar, host: str, domain: str) -> None:
    jar.store(f"http://{host}/", [f"a=b; Domain={domain}"])
    assert len(jar) == 0
    # The suffix itself may be a site; its cookies are its own.
    jar.store(f"http://{domain}/", [f"a=b; Domain={domain}"])
    assert jar.header(f"http://{domain}/") == "a=b"
    assert jar.header(f"http://{host}/") == ""


def test_longer_paths_come_first_and_then_older_cookies(jar: CookieJar) -> None:
    jar.store(SITE, ["c=1; Path=/", "b=2; Path=/a", "a=3; Path=/", "c=4; Path=/"])
    assert jar.header(SITE) == "b=2; c=4; a=3"


def test_a_cookie_goes_when_its_time_is_over(clock: ManualClock, jar: CookieJar) -> None:
    jar.store(SITE, ["a=b; Max-Age=10", "c=d"])
    clock.advance(9.9)
    assert jar.header(SITE) == "a=b; c=d"
    clock.advance(0.1)
    assert [cookie.name for cookie in jar] == ["c"]
    assert jar.header(SITE) == "c=d"
    assert len(jar) == 1


def test_a_server_can_take_a_cookie_back(jar: CookieJar) -> None:
    jar.store(SITE, ["a=b; Path=/"])
    jar.store(SITE, ["a=; Path=/; Max-Age=0"])
    assert (len(jar), jar.header(SITE)) == (0, "")


def test_cookies_by_hand_are_for_the_domain_and_below(jar: CookieJar) -> None:
    jar.set("token", "x", domain=".Shop.example")
    assert jar.header("http://www.shop.example/") == "token=x"
    jar.set("token", "y", domain="shop.example", secure=True)
    assert jar.header("http://shop.example/") == ""
    jar.clear()
    assert jar.header("https://shop.example/") == ""


def test_ten_thousand_cookies_cost_no_more_than_the_limits(jar: CookieJar) -> None:
    jar.store(SITE, [f"n{number}={number}" for number in range(10_000)])
    assert len(jar) == MAX_PER_DOMAIN
    assert jar.header(SITE).endswith("n9999=9999")
    jar.store("http://kept.example/", ["kept=1"])
    for number in range(MAX_COOKIES + 50):
        jar.store(f"http://{number}.test/", ["a=b"])
        if number % 900 == 0:
            jar.store("http://kept.example/", ["kept=1"])
        assert jar.header("http://kept.example/") == "kept=1"
    assert len(jar) == MAX_COOKIES
    assert jar.header("http://0.test/") == ""


def test_a_cookie_header_stays_as_short_as_servers_take_it(jar: CookieJar) -> None:
    jar.store(SITE, [f"n{number}={'x' * 1000}" for number in range(20)])
    jar.store(SITE, [f"specific={'y' * 1000}; Path=/a/b"])
    header = jar.header(SITE)
    assert header.startswith("specific=")
    assert 7000 < len(header) <= MAX_HEADER


def test_what_is_saved_comes_back_but_for_what_expired(clock: ManualClock, jar: CookieJar) -> None:
    jar.store(
        "https://www.shop.example/a/",
        ["a=b; Domain=shop.example; Secure", "c=d; Max-Age=10", "e=f; Max-Age=1000; Path=/"],
    )
    saved = encode(jar.saved(), "cookies")
    clock.advance(60)
    restored = CookieJar(clock)
    restored.load(decode(saved, "cookies", list[Cookie]))
    assert restored.header("https://www.shop.example/a/") == "a=b; e=f"
    assert restored.header("http://www.shop.example/a/") == "e=f"
    assert restored.header("https://shop.example/a/") == "a=b"
    clock.advance(1000)
    assert restored.header("https://www.shop.example/a/") == "a=b"


def test_changes_tell_whether_there_is_something_to_save(
    clock: ManualClock, jar: CookieJar
) -> None:
    seen = [jar.changes]
    for header in ("a=b", "a=c", "a=c; Max-Age=10", "a=; Max-Age=0"):
        jar.store(SITE, [header])
        seen.append(jar.changes)
    assert len(set(seen)) == 5
    jar.store(SITE, ["x=y"])
    before = jar.changes
    jar.store(SITE, ["x=y"])
    assert jar.header(SITE) == "x=y"
    assert jar.changes == before
