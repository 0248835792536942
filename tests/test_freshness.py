"""The page cache keeps the rules of HTTP that browsers keep (RFC 9111, RFC 5861).

A case is what a site answers first, how long we wait, and what we ask then. In header fields a
number stands for a date so many seconds from now. The cases are those of the public suite of tests
for HTTP caches, in our words, as far as they are about private caches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from crawlkit.cache import PageCache
from crawlkit.caching.freshness import (
    Terms,
    directives,
    freshened,
    is_storable,
    may_use,
    storable_headers,
    terms_of,
    wishes_of,
)
from crawlkit.clock import Clock
from crawlkit.errors import NetworkError
from crawlkit.http.hops import Hop
from crawlkit.request import Request
from crawlkit.response import Response

URL = "https://shop.example/page"
START = 1_800_000_000.0
DAY = 86400
Lines = Iterable[tuple[str, str | int]]


class Time:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.seconds = START

    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, lambda: self.seconds)


class Origin:
    """A site that gives prepared answers, and remembers what it was asked."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.asked: list[Hop] = []
        self.answer: Response | Exception = Response(url=URL)

    def prepare(
        self, *lines: tuple[str, str | int], status: int = 200, body: bytes = b"page"
    ) -> None:
        self.answer = Response(url=URL, status=status, headers=self.fields(lines), body=body)

    def fields(self, lines: Lines) -> CIMultiDict[str]:
        return CIMultiDict(
            [(name, value if isinstance(value, str) else self.date(value)) for name, value in lines]
        )

    def date(self, delta: int) -> str:
        return formatdate(self.time.seconds + delta, usegmt=True)

    async def send(self, hop: Hop) -> Response:
        self.asked.append(hop)
        if isinstance(self.answer, Exception):
            raise self.answer
        answer = self.answer
        return Response(url=hop.url, status=answer.status, headers=answer.headers, body=answer.body)


class Browser:
    """Asks through a cache in its HTTP mode."""

    def __init__(self, cache: PageCache, origin: Origin, time: Time) -> None:
        self.cache = cache
        self.origin = origin
        self.time = time

    async def get(
        self,
        *lines: tuple[str, str | int],
        method: str = "GET",
        url: str = URL,
        retry_count: int = 0,
        cookie: str = "",
    ) -> Response:
        headers = self.origin.fields(lines)
        request = Request(
            url, method=method, headers=dict(headers), cache="http", retry_count=retry_count
        )
        hop = Hop(url, method, None, headers or None)
        return await self.cache.exchange(request, hop, self.origin.send, cookies=lambda _: cookie)


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    time = Time()
    async with PageCache(tmp_path / "cache", clock=time.clock()) as cache:
        yield Browser(cache, Origin(time), time)


@dataclass(frozen=True)
class Case:
    name: str
    headers: tuple[tuple[str, str | int], ...]
    then: str
    wait: float = 3
    status: int = 200
    asked: tuple[tuple[str, str | int], ...] = ()
    ask: tuple[tuple[str, str | int], ...] = field(default=())

    def __str__(self) -> str:
        return self.name


def case(name: str, *headers: tuple[str, str | int], then: str, **more: Any) -> Any:
    return pytest.param(Case(name, headers, then, **more), id=name)


CC = "Cache-Control"
VALID = (("ETag", '"v1"'),)

LIFETIMES = [
    case("nothing said", then="miss"),
    case("max-age", (CC, "max-age=3600"), then="hit"),
    case("max-age is over", (CC, "max-age=2"), then="miss"),
    case("max-age=0", (CC, "max-age=0"), then="miss", wait=0),
    case("max-age in any case", (CC, "MaX-aGe=3600"), then="hit"),
    case("max-age in quotes", (CC, 'max-age="3600"'), then="hit"),
    case("max-age in single quotes", (CC, "max-age='3600'"), then="miss"),
    case("max-age with zeros before", (CC, "max-age=003600"), then="hit"),
    case("max-age negative", (CC, "max-age=-3600"), then="miss"),
    case("max-age with letters before", (CC, "max-age=a3600"), then="miss"),
    case("max-age with letters behind", (CC, "max-age=3600a"), then="miss"),
    case("max-age with a fraction", (CC, "max-age=3600.5"), then="miss"),
    case("max-age with a space before =", (CC, "max-age =3600"), then="miss"),
    case("max-age with a space behind =", (CC, "max-age= 3600"), then="miss"),
    case("max-age without a value", (CC, "max-age"), then="miss"),
    case("max-age of 2^31", (CC, "max-age=2147483648"), then="hit"),
    case("max-age beyond all numbers", (CC, f"max-age={'9' * 5000}"), then="hit"),
    case("a quoted max-age before", (CC, 'a="max-age=3600", max-age=1'), then="miss"),
    case("a quoted max-age behind", (CC, 'max-age=1, a="max-age=3600"'), then="miss"),
    case("a quote that does not end", (CC, 'a="max-age=3600, max-age=3600'), then="miss"),
    case("an unknown directive", (CC, "foobar, max-age=3600"), then="hit"),
    case("of two the first holds", (CC, "max-age=1, max-age=3600"), then="miss"),
    case("of two lines the first holds", (CC, "max-age=1"), (CC, "max-age=3600"), then="miss"),
    case("s-maxage is for others", (CC, "s-maxage=3600"), then="miss"),
    case("s-maxage beside a short one", (CC, "s-maxage=3600, max-age=1"), then="miss"),
    case("s-maxage beside a long one", (CC, "s-maxage=1, max-age=3600"), then="hit"),
    case("Age beyond the lifetime", ("Age", "15"), (CC, "max-age=10"), then="miss"),
    case("Age within the lifetime", ("Age", "15"), (CC, "max-age=3600"), then="hit"),
    case("Age that is no number", ("Age", "abc"), (CC, "max-age=3600"), then="miss"),
    case("Age that is negative", ("Age", "-7200"), (CC, "max-age=3600"), then="miss"),
    case("Age with a fraction", ("Age", "7200.0"), (CC, "max-age=3600"), then="miss"),
    case("Age with a parameter", ("Age", "0;a=b"), (CC, "max-age=3600"), then="miss"),
    case("Age that is empty", ("Age", ""), (CC, "max-age=3600"), then="hit"),
    case("Age as a list, new first", ("Age", "0, 7200"), (CC, "max-age=3600"), then="hit"),
    case("Age twice, old first", ("Age", "7200"), ("Age", "0"), (CC, "max-age=3600"), then="miss"),
    case("Age as a list", ("Age", "7200, 0"), (CC, "max-age=3600"), then="miss"),
    case("Date in the past", ("Date", -7200), (CC, "max-age=3600"), then="miss"),
    case("Date in the future", ("Date", 7200), (CC, "max-age=3600"), then="hit"),
    case("Date that is none", ("Date", "today"), (CC, "max-age=3600"), then="hit"),
    case("Expires", ("Expires", 3600), ("Date", 0), then="hit"),
    case("Expires without Date", ("Expires", 3600), then="hit"),
    case("Expires in the past", ("Expires", -3600), ("Date", 0), then="miss"),
    case("Expires now", ("Expires", 0), ("Date", 0), then="miss", wait=0),
    case("Expires 0", ("Expires", "0"), ("Date", 0), then="miss"),
    case("Expires -1", ("Expires", "-1"), then="miss"),
    case("Expires beside max-age", ("Expires", "0"), (CC, "max-age=3600"), then="hit"),
    case("Expires beside max-age=0", ("Expires", 3600), (CC, "max-age=0"), then="miss"),
    case("Expires with Age", ("Expires", 30), ("Date", 0), ("Age", "40"), then="miss"),
    case("no-store", (CC, "no-store"), then="miss"),
    case("no-store in any case", (CC, "No-StOrE, max-age=3600"), then="miss"),
    case("no-store with Expires", (CC, "no-store"), ("Expires", 3600), then="miss"),
    case("no-cache", (CC, "no-cache, max-age=3600"), then="miss"),
    case("no-cache in any case", (CC, "max-age=3600, No-CaChE"), then="miss"),
    case("no-cache on a second line", (CC, "max-age=3600"), (CC, "no-cache"), then="miss"),
    case("no-cache of fields", (CC, 'max-age=3600, no-cache="a"'), then="hit"),
    case("private", (CC, "private, max-age=3600"), then="hit"),
    case("must-revalidate while fresh", (CC, "max-age=3600, must-revalidate"), then="hit"),
    case("must-understand", (CC, "max-age=3600, no-store, must-understand"), then="hit"),
    case("immutable", (CC, "max-age=3600, immutable"), then="hit"),
    case("immutable and stale", (CC, "max-age=1, immutable"), then="miss"),
    case("Set-Cookie", (CC, "max-age=3600"), ("Set-Cookie", "a=b"), then="hit"),
    case("Pragma in a response", (CC, "max-age=3600"), ("Pragma", "no-cache"), then="hit"),
    case("a Cookie that is new", (CC, "max-age=3600"), then="hit", ask=(("Cookie", "a=b"),)),
    case(
        "Authorization",
        (CC, "max-age=3600"),
        then="hit",
        asked=(("Authorization", "Basic YTpi"),),
        ask=(("Authorization", "Basic YTpi"),),
    ),
    case("a day old", ("Last-Modified", -DAY), ("Date", 0), then="hit"),
    case("a day old, an hour later", ("Last-Modified", -DAY), then="hit", wait=3600),
    case("a day old, three hours later", ("Last-Modified", -DAY), then="miss", wait=3 * 3600),
    case("a year old, a month later", ("Last-Modified", -365 * DAY), then="miss", wait=30 * DAY),
    case("changed just now", ("Last-Modified", 0), then="miss"),
    case("changed tomorrow", ("Last-Modified", DAY), then="miss"),
]

STATUSES = [
    *(
        case(f"{status} with a lifetime", (CC, "max-age=3600"), then="hit", status=status)
        for status in (200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499)
    ),
    *(
        case(f"{status} with a lifetime", (CC, "max-age=3600"), then="hit", status=status)
        for status in (500, 502, 503, 504, 599)
    ),
    *(
        case(f"{status} whose lifetime is over", (CC, "max-age=1"), then="miss", status=status)
        for status in (200, 301, 404, 500, 599)
    ),
    *(
        case(f"{status} of a day ago", ("Last-Modified", -DAY), then="hit", status=status)
        for status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)
    ),
    *(
        case(f"{status} of a day ago", ("Last-Modified", -DAY), then="miss", status=status)
        for status in (201, 202, 302, 303, 307, 403, 502, 503, 504, 599)
    ),
    case(
        "599 of a day ago, public",
        ("Last-Modified", -DAY),
        (CC, "public"),
        then="hit",
        status=599,
    ),
    *(
        case(f"{status} is never kept", (CC, "max-age=3600"), then="miss", status=status)
        for status in (206, 428, 429, 431, 511)
    ),
    case(
        "599 that must be understood", (CC, "max-age=9, must-understand"), then="miss", status=599
    ),
]

WISHES = [
    case("max-age=0", (CC, "max-age=3600"), then="miss", ask=((CC, "max-age=0"),), wait=0),
    case("max-age=1", (CC, "max-age=3600"), then="miss", ask=((CC, "max-age=1"),)),
    case("max-age=60", (CC, "max-age=3600"), then="hit", ask=((CC, "max-age=60"),)),
    case(
        "max-age below Age",
        (CC, "max-age=3600"),
        ("Age", "1800"),
        then="miss",
        ask=((CC, "max-age=600"),),
    ),
    case("max-stale", (CC, "max-age=1"), then="hit", ask=((CC, "max-stale=1000"),)),
    case("max-stale without end", (CC, "max-age=1"), then="hit", ask=((CC, "max-stale"),)),
    case("max-stale exceeded", (CC, "max-age=1"), then="miss", ask=((CC, "max-stale=1"),)),
    case(
        "max-stale against must-revalidate",
        (CC, "max-age=1, must-revalidate"),
        then="miss",
        ask=((CC, "max-stale=1000"),),
    ),
    case(
        "max-stale with Age",
        (CC, "max-age=1500"),
        ("Age", "2000"),
        then="hit",
        ask=((CC, "max-stale=1000"),),
    ),
    case("min-fresh", (CC, "max-age=1500"), then="miss", ask=((CC, "min-fresh=2000"),)),
    case(
        "min-fresh with Age",
        (CC, "max-age=1500"),
        ("Age", "1000"),
        then="miss",
        ask=((CC, "min-fresh=1000"),),
    ),
    case("min-fresh satisfied", (CC, "max-age=1500"), then="hit", ask=((CC, "min-fresh=60"),)),
    case("no-cache", (CC, "max-age=3600"), then="miss", ask=((CC, "no-cache"),)),
    case("Pragma: no-cache", (CC, "max-age=3600"), then="miss", ask=(("Pragma", "no-cache"),)),
    case("Pragma: other", (CC, "max-age=3600"), then="hit", ask=(("Pragma", "other"),)),
    case("no-store when asked first", (CC, "max-age=3600"), then="miss", asked=((CC, "no-store"),)),
]


def vary(name: str, listed: str, first: Lines, second: Lines, then: str) -> Any:
    headers = (("Vary", listed), (CC, "max-age=5000"))
    return case(name, *headers, then=then, asked=tuple(first), ask=tuple(second))


FOO1, FOO2, BAR, BAZ = ("Foo", "1"), ("Foo", "2"), ("Bar", "abc"), ("Baz", "789")
VARY = [
    vary("the same field", "Foo", [FOO1], [FOO1], "hit"),
    vary("another value", "Foo", [FOO1], [FOO2], "miss"),
    vary("the field is left out", "Foo", [FOO1], [], "miss"),
    vary("the field is new", "Foo", [], [FOO1], "miss"),
    vary("the field was never there", "Foo", [], [], "hit"),
    vary(
        "a field that is not listed", "Foo", [FOO1, ("Other", "2")], [FOO1, ("Other", "3")], "hit"
    ),
    vary("two fields", "Foo, Bar", [FOO1, BAR], [FOO1, BAR], "hit"),
    vary("two fields, one of them other", "Foo, Bar", [FOO1, BAR], [FOO2, BAR], "miss"),
    vary("two fields, one of them gone", "Foo, Bar", [FOO1, BAR], [FOO1], "miss"),
    vary("three, in another order", "Foo, Bar, Baz", [FOO1, BAR, BAZ], [BAZ, BAR, FOO1], "hit"),
    vary("three, one missing in both", "Foo, Bar, Baz", [FOO1, BAZ], [FOO1, BAZ], "hit"),
    vary("in any case", "fOO", [FOO1], [("FOO", "1")], "hit"),
    vary("spaces around commas", "Foo", [("Foo", "1,2")], [("Foo", " 1, 2 ")], "hit"),
    vary("on two lines", "Foo", [("Foo", "1, 2")], [("Foo", "1"), ("Foo", "2")], "hit"),
    *(
        vary(f"{listed!r}", listed, [FOO1, BAZ], [FOO1, BAZ], "miss")
        for listed in ("*", "*, *", ", *", "*, Foo", "Foo, *")
    ),
]


@pytest.mark.parametrize("case", [*LIFETIMES, *STATUSES])
async def test_a_response_is_used_again_as_its_fields_allow(browser: Browser, case: Case) -> None:
    await check(browser, case)


@pytest.mark.parametrize("case", WISHES)
async def test_what_a_request_asks_of_caches_is_heeded(browser: Browser, case: Case) -> None:
    await check(browser, case)


@pytest.mark.parametrize("case", VARY)
async def test_a_response_is_for_requests_that_agree_in_what_vary_lists(
    browser: Browser, case: Case
) -> None:
    await check(browser, case)


async def check(browser: Browser, case: Case) -> None:
    browser.origin.prepare(*case.headers, status=case.status)
    first = await browser.get(*case.asked)
    assert first.cache == "miss"
    browser.time.seconds += case.wait
    second = await browser.get(*case.ask)
    assert second.cache == case.then
    assert (second.status, second.body) == (case.status, b"page")
    assert len(browser.origin.asked) == (1 if case.then == "hit" else 2)


async def test_both_variants_of_a_page_are_kept(browser: Browser) -> None:
    for value in ("1", "2", "3"):
        browser.origin.prepare(("Vary", "Foo"), (CC, "max-age=99"), body=value.encode())
        assert (await browser.get(("Foo", value))).cache == "miss"
    for value in ("1", "2", "3"):
        again = await browser.get(("Foo", value))
        assert (again.cache, again.body) == ("hit", value.encode())


async def test_a_page_of_one_visitor_is_not_for_another_where_vary_lists_cookie(
    browser: Browser,
) -> None:
    browser.origin.prepare(("Vary", "Cookie"), (CC, "max-age=99"))
    await browser.get(cookie="user=ann")
    assert (await browser.get(cookie="user=ann")).cache == "hit"
    assert (await browser.get(cookie="user=bob")).cache == "miss"


# -- asking the site --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("validator", "condition"),
    [
        (("ETag", '"v1"'), ("If-None-Match", '"v1"')),
        (("ETag", 'W/"v1"'), ("If-None-Match", 'W/"v1"')),
        (("Last-Modified", "Mon, 02 Jan 2023 00:00:00 GMT"), None),
    ],
)
@pytest.mark.parametrize("lifetime", ["max-age=1", "no-cache", "max-age=99, no-cache"])
async def test_a_stale_page_that_has_not_changed_is_not_sent_again(
    browser: Browser,
    validator: tuple[str, str],
    condition: tuple[str, str] | None,
    lifetime: str,
) -> None:
    browser.origin.prepare(validator, (CC, lifetime), ("Vary", "Foo"))
    await browser.get(("Foo", "1"))
    browser.time.seconds += 100
    browser.origin.prepare(validator, (CC, lifetime), status=304, body=b"")
    again = await browser.get(("Foo", "1"))
    assert (again.cache, again.status, again.body) == ("revalidated", 200, b"page")
    asked = browser.origin.asked[-1].headers
    assert asked is not None
    name, value = condition or ("If-Modified-Since", validator[1])
    assert asked[name] == value
    assert asked["Foo"] == "1"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Test-Header", "a", "b"),
        ("Content-Type", "text/plain", "text/plain;charset=utf-8"),
        ("Content-Location", "/foo", "/bar"),
        ("Content-Security-Policy", "default-src 'self'", "default-src 'none'"),
        ("X-Frame-Options", "deny", "sameorigin"),
        ("Set-Cookie", "a=b", "a=c"),
        ("Expires", "Mon, 02 Jan 2023 00:00:00 GMT", "Tue, 03 Jan 2023 00:00:00 GMT"),
    ],
)
async def test_a_304_brings_the_stored_fields_up_to_date(
    browser: Browser, name: str, old: str, new: str
) -> None:
    browser.origin.prepare(*VALID, (CC, "max-age=1"), (name, old), ("Kept", "yes"))
    await browser.get()
    browser.time.seconds += 3
    browser.origin.prepare(*VALID, (CC, "max-age=3600"), (name, new), status=304)
    for expected in ("revalidated", "hit"):
        response = await browser.get()
        assert (response.cache, response.headers.getall(name)) == (expected, [new])
        assert response.headers["Kept"] == "yes"


async def test_a_304_says_nothing_about_the_body_that_is_kept(browser: Browser) -> None:
    browser.origin.prepare(
        *VALID, (CC, "max-age=1"), ("Content-Length", "4"), ("Content-MD5", "x"), ("Age", "9")
    )
    await browser.get()
    browser.origin.prepare(
        *VALID,
        (CC, "max-age=60"),
        ("Content-Length", "0"),
        ("Content-MD5", "y"),
        ("Content-Encoding", "x"),
        status=304,
    )
    response = await browser.get()
    assert response.cache == "revalidated"
    assert response.headers["Content-Length"] == "4"
    assert response.headers["Content-MD5"] == "x"
    assert "Content-Encoding" not in response.headers
    assert (await browser.get()).headers["Age"] == "0"


async def test_a_304_for_another_version_brings_the_page_back_under_its_own_validators(
    browser: Browser,
) -> None:
    browser.origin.prepare(*VALID, (CC, "max-age=1"))
    before = await browser.get()
    browser.time.seconds += 3
    browser.origin.prepare(
        ("ETag", '"v2"'), ("Last-Modified", 0), (CC, "max-age=60"), ("New", "1"), status=304
    )
    for expected in ("revalidated", "hit"):
        response = await browser.get()
        assert (response.cache, response.body) == (expected, b"page")
        assert response.headers["New"] == "1"
        for name in ("ETag", "Last-Modified"):
            assert response.headers.get(name) == before.headers.get(name)
    browser.time.seconds += 100
    browser.origin.prepare(("ETag", '"v2"'), body=b"new")
    assert (await browser.get()).body == b"new"


async def test_a_changed_page_takes_the_place_of_the_old_one(browser: Browser) -> None:
    browser.origin.prepare(*VALID, (CC, "max-age=1"))
    await browser.get()
    browser.time.seconds += 3
    browser.origin.prepare(("ETag", '"v2"'), (CC, "max-age=60"), body=b"new")
    assert (await browser.get()).body == b"new"
    assert (await browser.get()).body == b"new"
    assert len(browser.origin.asked) == 2


async def test_only_if_cached_is_504_where_nothing_is_there(browser: Browser) -> None:
    response = await browser.get((CC, "only-if-cached"))
    assert (response.status, browser.origin.asked) == (504, [])
    browser.origin.prepare((CC, "max-age=60"))
    await browser.get()
    assert (await browser.get((CC, "only-if-cached"))).cache == "hit"


@pytest.mark.parametrize(
    ("stored", "condition", "status"),
    [
        (("ETag", '"v1"'), ("If-None-Match", '"v1"'), 304),
        (("ETag", 'W/"v1"'), ("If-None-Match", 'W/"v1"'), 304),
        (("ETag", '"v1"'), ("If-None-Match", '"v0", "v1", "v2"'), 304),
        (("ETag", '"v1"'), ("If-None-Match", "*"), 304),
        (("ETag", '"v1"'), ("If-None-Match", '"v2"'), 200),
        (("Last-Modified", -100), ("If-Modified-Since", -50), 304),
        (("Last-Modified", -100), ("If-Modified-Since", -150), 200),
    ],
)
async def test_a_request_with_a_condition_of_its_own_is_answered_from_a_fresh_page(
    browser: Browser, stored: tuple[str, str | int], condition: tuple[str, str | int], status: int
) -> None:
    browser.origin.prepare(stored, (CC, "max-age=60"))
    await browser.get()
    response = await browser.get(condition)
    assert (response.status, response.cache) == (status, "hit")
    assert response.headers[stored[0]]


async def test_a_condition_of_the_request_reaches_the_site_where_nothing_is_there(
    browser: Browser,
) -> None:
    browser.origin.prepare(*VALID, status=304, body=b"")
    assert (await browser.get(("If-None-Match", '"v1"'))).status == 304
    asked = browser.origin.asked[0].headers
    assert asked is not None
    assert asked.getall("If-None-Match") == ['"v1"']


# -- when the site fails ------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [NetworkError("gone"), 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("control", "then"),
    [
        ("max-age=2, stale-if-error=60", "stale"),
        ("max-age=2, stale-if-error=1", "failure"),
        ("max-age=2", "failure"),
        ("max-age=2, must-revalidate, stale-if-error=60", "failure"),
        ("no-cache, stale-if-error=60", "failure"),
        ("max-age=2, stale-while-revalidate=60", "failure"),
    ],
)
async def test_a_stale_page_stands_in_for_an_error_only_where_the_site_said_so(
    browser: Browser, failure: NetworkError | int, control: str, then: str
) -> None:
    browser.origin.prepare((CC, control))
    await browser.get()
    browser.time.seconds += 10
    if isinstance(failure, int):
        browser.origin.prepare(status=failure, body=b"sorry")
    else:
        browser.origin.answer = failure
    if then == "stale":
        response = await browser.get()
        assert (response.cache, response.status, response.body) == ("stale", 200, b"page")
    elif isinstance(failure, int):
        assert (await browser.get()).status == failure
    else:
        with pytest.raises(NetworkError):
            await browser.get()


async def test_a_request_that_is_tried_again_does_not_get_what_it_failed_with(
    browser: Browser,
) -> None:
    browser.origin.prepare((CC, "max-age=60"), status=500)
    await browser.get()
    assert (await browser.get()).cache == "hit"
    browser.origin.prepare((CC, "max-age=60"), body=b"well again")
    assert (await browser.get(retry_count=1)).body == b"well again"
    assert (await browser.get(retry_count=1)).cache == "hit"


# -- what changes a page ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"])
@pytest.mark.parametrize(
    ("fields", "forgotten"),
    [
        ((), {URL}),
        ((("Location", "/other"),), {URL, "https://shop.example/other"}),
        ((("Content-Location", "/other"),), {URL, "https://shop.example/other"}),
        ((("Location", "https://else.example/page"),), {URL}),
    ],
)
async def test_what_an_unsafe_request_may_have_changed_is_forgotten(
    browser: Browser, method: str, fields: tuple[tuple[str, str], ...], forgotten: set[str]
) -> None:
    urls = [URL, "https://shop.example/other", "https://else.example/page"]
    browser.origin.prepare((CC, "max-age=60"), ("Vary", "Foo"))
    for url in urls:
        await browser.get(url=url)
        await browser.get(("Foo", "1"), url=url)
    browser.origin.prepare(*fields)
    assert (await browser.get(method=method)).status == 200
    for url in urls:
        expected = "miss" if url in forgotten else "hit"
        assert (await browser.get(url=url)).cache == expected
        assert (await browser.get(("Foo", "1"), url=url)).cache == expected


async def test_an_unsafe_request_that_failed_changes_nothing(browser: Browser) -> None:
    browser.origin.prepare((CC, "max-age=60"))
    await browser.get()
    browser.origin.prepare(status=500)
    await browser.get(method="POST")
    assert (await browser.get()).cache == "hit"


# -- HEAD, and fields ---------------------------------------------------------------------------


async def test_head_is_answered_from_a_fresh_page_and_never_takes_its_place(
    browser: Browser,
) -> None:
    browser.origin.prepare((CC, "max-age=60"))
    await browser.get()
    head = await browser.get(method="HEAD")
    assert (head.cache, head.body) == ("hit", b"")
    browser.time.seconds += 100
    browser.origin.prepare((CC, "max-age=60"), body=b"")
    assert (await browser.get(method="HEAD")).cache == "miss"
    browser.origin.prepare((CC, "max-age=60"))
    assert (await browser.get()).body == b"page"


async def test_a_head_that_agrees_makes_a_stale_page_fresh_and_one_that_does_not_a_fresh_one_stale(
    browser: Browser,
) -> None:
    browser.origin.prepare(*VALID, (CC, "max-age=1"), ("Content-Length", "4"))
    await browser.get()
    browser.time.seconds += 3
    browser.origin.prepare(
        *VALID, (CC, "max-age=60"), ("Content-Length", "4"), ("New", "1"), body=b""
    )
    assert (await browser.get(method="HEAD")).cache == "miss"
    page = await browser.get()
    assert (page.cache, page.body, page.headers["New"]) == ("hit", b"page", "1")

    browser.origin.prepare(*VALID, ("Content-Length", "5"), body=b"")
    await browser.get((CC, "no-cache"), method="HEAD")
    browser.origin.prepare(("ETag", '"v2"'), (CC, "max-age=60"), body=b"pages")
    assert (await browser.get()).body == b"pages"
    assert browser.origin.asked[-1].headers is not None  # the old one is there to be confirmed


# -- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "body", "where"),
    [
        ("bytes=0-1", b"pa", "0-1"),
        ("bytes=1-", b"age", "1-3"),
        ("bytes=-1", b"e", "3-3"),
        ("bytes=-99", b"page", "0-3"),
        ("Bytes = 3-99", b"e", "3-3"),
    ],
)
async def test_a_part_of_a_fresh_page_is_cut_out_of_it(
    browser: Browser, asked: str, body: bytes, where: str
) -> None:
    browser.origin.prepare(*VALID, (CC, "max-age=60"), ("Content-Length", "4"))
    await browser.get()
    part = await browser.get(("Range", asked))
    assert (part.status, part.cache, part.body) == (206, "hit", body)
    assert part.headers["Content-Range"] == f"bytes {where}/4"
    assert part.headers["Content-Length"] == str(len(body))
    assert part.headers["ETag"] == '"v1"'
    assert (await browser.get()).body == b"page"
    assert len(browser.origin.asked) == 1


@pytest.mark.parametrize(
    "ask",
    [
        (("Range", "bytes=4-"),),
        (("Range", "bytes=2-1"),),
        (("Range", "bytes=-"),),
        (("Range", "bytes=0-0,2-3"),),
        (("Range", "lines=1-2"),),
        (("Range", "bytes=0-1"), ("If-Range", '"v1"')),
        (("Range", "bytes=0-1"), (CC, "no-cache")),
    ],
)
async def test_a_part_that_is_not_for_a_cache_to_cut_is_asked_for(
    browser: Browser, ask: tuple[tuple[str, str], ...]
) -> None:
    browser.origin.prepare(*VALID, (CC, "max-age=60"))
    await browser.get()
    browser.origin.prepare(status=416)
    assert (await browser.get(*ask)).status == 416


async def test_no_part_is_cut_out_of_a_body_that_was_sent_compressed(browser: Browser) -> None:
    browser.origin.prepare((CC, "max-age=60"), ("Content-Encoding", "gzip"))
    await browser.get()
    browser.origin.prepare(status=416)
    assert (await browser.get(("Range", "bytes=0-1"))).status == 416


async def test_a_part_is_kept_as_that_part_until_the_page_is_changed(browser: Browser) -> None:
    browser.origin.prepare(
        (CC, "max-age=60"), ("Content-Range", "bytes 0-1/4"), status=206, body=b"pa"
    )
    for expected in ("miss", "hit"):
        part = await browser.get(("Range", "bytes=0-1"))
        assert (part.status, part.cache, part.body) == (206, expected, b"pa")
    browser.origin.prepare((CC, "max-age=60"))
    assert (await browser.get()).body == b"page"
    browser.origin.prepare(status=201)
    await browser.get(method="POST")
    browser.origin.prepare((CC, "max-age=60"), body=b"new")
    assert (await browser.get(("Range", "bytes=0-1"))).body == b"new"


async def test_a_page_from_the_cache_says_how_old_it_is(browser: Browser) -> None:
    browser.origin.prepare((CC, "max-age=600"), ("Age", "30"), ("Date", 0))
    first = await browser.get()
    browser.time.seconds += 5
    again = await browser.get()
    assert again.headers.getall("Age") == ["35"]
    assert again.headers["Date"] == first.headers["Date"]


def test_fields_of_one_connection_are_not_kept() -> None:
    headers = CIMultiDict(
        [
            ("Connection", "a, B"),
            ("A", "1"),
            ("b", "2"),
            ("c", "3"),
            ("Transfer-Encoding", "chunked"),
            ("Keep-Alive", "timeout=5"),
            ("Upgrade", "h2c"),
            ("Proxy-Authenticate", "Basic"),
            ("Set-Cookie", "x=y"),
        ]
    )
    assert storable_headers(headers) == [("c", "3"), ("Set-Cookie", "x=y")]


@pytest.mark.parametrize(("listed", "kept"), [('"a"', "bc"), ('"a, B"', "c"), ('""', "abc")])
def test_fields_that_no_cache_lists_are_not_kept(listed: str, kept: str) -> None:
    headers = CIMultiDict({CC: f"no-cache={listed}", "a": "1", "b": "2", "c": "3"})
    assert "".join(n for n, _ in storable_headers(headers) if len(n) == 1) == kept


def test_fields_that_a_304_has_twice_replace_all_that_there_were() -> None:
    stored = CIMultiDict([("Link", "a"), ("Link", "b"), ("Link", "c")])
    answer = CIMultiDict([("Link", "d"), ("Link", "e")])
    assert freshened(stored, answer).getall("Link") == ["d", "e"]


def test_directives_are_read_as_http_writes_them() -> None:
    assert directives(['a=1, B="x, \\"y\\""', "c ,, d=", "a=2"]) == {
        "a": "1",
        "b": 'x, "y"',
        "c": None,
        "d": "",
    }


def test_a_header_of_a_hundred_thousand_directives_takes_no_time() -> None:
    for text in ("a," * 100_000, '"' * 100_000, 'a="\\' * 50_000, "a=" * 100_000):
        directives([text])


def test_the_delay_of_the_answer_counts_as_age() -> None:
    terms = terms_of(200, CIMultiDict({CC: "max-age=60", "Age": "10"}), START, START + 20)
    assert terms.age == 30
    assert terms.age_at(START + 20, START + 25) == 35
    assert terms.age_at(START + 20, START - 500) == 30, "a clock that was set back"


def test_only_get_and_head_are_kept_and_nothing_that_is_not_final() -> None:
    headers = CIMultiDict({CC: "max-age=60"})
    assert is_storable("GET", None, 200, headers)
    assert is_storable("HEAD", None, 200, headers)
    assert not is_storable("POST", None, 200, headers)
    assert not is_storable("GET", None, 103, headers)
    assert not is_storable("GET", None, 304, headers)


def test_a_fresh_response_is_used_unless_the_request_objects() -> None:
    terms = Terms(lifetime=60)
    assert may_use(terms, 59)
    assert not may_use(terms, 60)
    assert not may_use(terms, 1, wishes_of(CIMultiDict({CC: "no-cache"})))
