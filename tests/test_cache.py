"""The page cache: what was asked once is not asked again, and no page is ever a wrong one."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from multidict import CIMultiDict

from crawlkit.cache import PageCache
from crawlkit.caching.entry import MAX_BODY, CacheEntry, Packer, decompress, pack, unpack
from crawlkit.caching.freshness import Terms
from crawlkit.cli import main
from crawlkit.clock import Clock
from crawlkit.errors import NetworkError, OfflineError, OptionError, UsageError
from crawlkit.http.hops import Hop
from crawlkit.request import CacheMode, Request
from crawlkit.response import Response

URL = "https://shop.example/page"
PAGE = b"<p>page</p>" * 500


class Origin:
    """A site that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.body = PAGE
        self.headers: list[tuple[str, str]] = [("Content-Type", "text/html")]
        self.is_private = False

    async def send(self, hop: Hop) -> Response:
        self.asked.append(hop.url)
        return Response(
            url=hop.url,
            status=self.status,
            headers=self.headers,
            body=self.body,
            is_private=self.is_private,
        )

    async def get(self, cache: PageCache, url: str = URL, /, **fields: Any) -> Response:
        request = Request(url, **fields)
        headers = CIMultiDict(request.headers) or None
        hop = Hop(url, request.method, request.body, headers)
        return await cache.exchange(request, hop, self.send)


class Time:
    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, lambda: self.seconds)


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
async def cache(directory: Path, time: Time) -> AsyncIterator[PageCache]:
    async with PageCache(directory, clock=time.clock()) as opened:
        yield opened


# -- modes ------------------------------------------------------------------------------------


async def test_off_asks_the_site_each_time_and_makes_no_directory(
    cache: PageCache, origin: Origin, directory: Path
) -> None:
    for _ in range(2):
        response = await origin.get(cache)
        assert (response.cache, response.is_stored) == ("", False)
    assert len(origin.asked) == 2
    assert directory.name not in os.listdir(directory.parent)


async def test_a_page_is_asked_for_once_and_comes_back_as_it_was(
    cache: PageCache, origin: Origin
) -> None:
    origin.headers = [("Set-Cookie", "a=b"), ("Set-Cookie", "c=d"), ("X-Name", "J\udce9r\u00f4me")]
    first = await origin.get(cache, cache="forever")
    assert (first.cache, first.is_stored) == ("miss", True)
    second = await origin.get(cache, cache="forever")
    assert (second.cache, second.is_stored) == ("hit", False)
    assert (second.url, second.status, second.body) == (URL, 200, PAGE)
    assert list(second.headers.items()) == origin.headers
    assert len(origin.asked) == 1


async def test_a_lifetime_in_seconds_holds_whatever_the_headers_say(
    cache: PageCache, origin: Origin, time: Time
) -> None:
    origin.headers = [("Cache-Control", "no-store, max-age=0"), ("Vary", "*")]
    await origin.get(cache, cache=60)
    time.seconds += 60
    assert (await origin.get(cache, cache=60)).cache == "hit"
    time.seconds += 1
    assert (await origin.get(cache, cache=60)).cache == "miss"
    time.seconds += 10**9
    assert (await origin.get(cache, cache="forever")).cache == "hit"


async def test_offline_gives_what_there_is_at_any_age_and_fetches_nothing(
    cache: PageCache, origin: Origin, time: Time
) -> None:
    origin.headers = [("Cache-Control", "max-age=1")]
    await origin.get(cache, cache="http")
    time.seconds += 10**9
    assert (await origin.get(cache, cache="offline", retry_count=3)).body == PAGE
    for url, method in ((URL + "2", "GET"), (URL, "POST")):
        with pytest.raises(OfflineError, match=f"{method} {url} is not in the page cache"):
            await origin.get(cache, url, method=method, cache="offline")
    assert len(origin.asked) == 1


@pytest.mark.parametrize("mode", ["forever", 60])
@pytest.mark.parametrize(
    ("status", "then"),
    [(s, "hit") for s in (200, 203, 204, 301, 302, 303, 307, 308, 404, 410)]
    + [(s, "miss") for s in (206, 304, 400, 401, 403, 408, 429, 500, 502, 503, 504, 511)],
)
async def test_pages_redirects_and_what_is_gone_are_kept_and_other_failures_never(
    cache: PageCache, origin: Origin, mode: Any, status: int, then: str
) -> None:
    origin.status = status
    assert (await origin.get(cache, cache=mode)).status == status
    again = await origin.get(cache, cache=mode)
    assert (again.cache, again.status) == (then, status)


async def test_a_request_that_is_tried_again_does_not_get_the_page_that_it_failed_with(
    cache: PageCache, origin: Origin
) -> None:
    origin.body = b"are you a robot?"
    await origin.get(cache, cache="forever")
    origin.body = PAGE
    assert (await origin.get(cache, cache="forever", retry_count=1)).body == PAGE
    for retry_count in (0, 1):
        again = await origin.get(cache, cache="forever", retry_count=retry_count)
        assert (again.cache, again.body) == ("hit", PAGE)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://shop.example/static/a.css", "forever"),
        ("https://shop.example/news/today", "off"),
        ("https://shop.example/news/archive", 60.0),
        ("https://shop.example/book", "http"),
    ],
)
async def test_the_first_pattern_that_matches_gives_the_mode_and_a_request_its_own(
    directory: Path, url: str, expected: Any
) -> None:
    cache = PageCache(
        directory,
        mode="http",
        rules={"**.css": "forever", "re:/news/archive": 60, "**/news/**": "off"},
    )
    assert cache.mode_of(Request(url), url) == expected
    assert cache.mode_of(Request(url, cache="offline"), url) == "offline"


@pytest.mark.parametrize("mode", ["on", "htpp", -1, True, None, "60", float("nan")])
def test_a_mode_that_does_not_exist_is_refused(directory: Path, mode: Any) -> None:
    with pytest.raises(OptionError, match=r"cache cannot be .*; choose off, http"):
        PageCache(directory, mode=mode)
    with pytest.raises(OptionError, match="choose"):
        PageCache(directory, rules={"**": mode})


def test_a_pattern_that_can_match_nothing_is_refused(directory: Path) -> None:
    with pytest.raises(OptionError, match=r"cache_rules 're:.*no regular expression"):
        PageCache(directory, rules={"re:(": "off"})


# -- keys -------------------------------------------------------------------------------------


async def test_another_url_method_or_body_is_another_page(cache: PageCache, origin: Origin) -> None:
    await origin.get(cache, cache="forever")
    assert (await origin.get(cache, URL + "?a", cache="forever")).cache == "miss"
    assert (await origin.get(cache, method="HEAD", cache="forever")).cache == "miss"
    assert (await origin.get(cache, body=b"x", cache="forever")).cache == "miss"
    assert (await origin.get(cache, body=b"y", cache="forever")).cache == "miss"
    assert (await origin.get(cache, cache="forever")).cache == "hit"


async def test_a_part_is_kept_and_is_never_taken_for_the_page(
    cache: PageCache, origin: Origin
) -> None:
    part = {"Range": "bytes=0-1"}
    origin.status, origin.headers = 206, [("Content-Range", "bytes 0-1/9")]
    for expected in ("miss", "hit"):
        response = await origin.get(cache, headers=part, cache="forever")
        assert (response.status, response.cache) == (206, expected)
    origin.status, origin.headers = 200, []
    assert (await origin.get(cache, cache="forever")).cache == "miss"
    other = await origin.get(cache, headers={"Range": "bytes=2-4"}, cache="offline")
    assert (other.status, other.body) == (206, PAGE[2:5])
    assert other.headers["Content-Range"] == f"bytes 2-4/{len(PAGE)}"


async def test_a_part_without_being_asked_for_is_not_kept(cache: PageCache, origin: Origin) -> None:
    origin.status = 206
    for _ in range(2):
        assert (await origin.get(cache, cache="forever")).cache == "miss"


# -- the same at the same time ----------------------------------------------------------------


class Slow(Origin):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.failures = 0

    async def send(self, hop: Hop) -> Response:
        await self.may_answer.wait()
        if self.failures:
            self.failures -= 1
            raise NetworkError("reset")
        return await super().send(hop)

    async def at_once(self, cache: PageCache, mode: CacheMode) -> list[Response | BaseException]:
        tasks = [asyncio.create_task(self.get(cache, cache=mode)) for _ in range(5)]
        await asyncio.sleep(0.05)
        self.may_answer.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("mode", ["http", "forever", 60])
async def test_a_page_that_several_ask_for_at_once_is_fetched_once(
    cache: PageCache, mode: CacheMode
) -> None:
    origin = Slow()
    origin.headers.append(("Cache-Control", "max-age=60"))
    answers = await origin.at_once(cache, mode)
    assert [answer.cache for answer in answers if isinstance(answer, Response)] == [
        "miss",
        *["hit"] * 4,
    ]
    assert len(origin.asked) == 1


@pytest.mark.parametrize("mode", ["http", "forever"])
async def test_pages_that_are_not_kept_do_not_come_one_by_one(
    cache: PageCache, mode: CacheMode
) -> None:
    origin = Slow()
    origin.status = 500
    answers = await origin.at_once(cache, mode)
    assert len(origin.asked) == len(answers) == 5


async def test_a_failure_is_the_failure_of_the_one_that_met_it(cache: PageCache) -> None:
    origin = Slow()
    origin.failures = 1
    answers = await origin.at_once(cache, "forever")
    assert [isinstance(answer, NetworkError) for answer in answers] == [True, *[False] * 4]


async def test_who_waits_for_another_may_go_and_so_may_the_other(cache: PageCache) -> None:
    origin = Slow()
    tasks = [asyncio.create_task(origin.get(cache, cache="forever")) for _ in range(3)]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    tasks[0].cancel()
    origin.may_answer.set()
    assert (await asyncio.wait_for(tasks[2], 30)).body == PAGE


async def test_post_is_kept_only_under_a_key_of_the_users_own(
    directory: Path, origin: Origin
) -> None:
    def key(request: Request) -> str | None:
        return f"search {request.body!r}" if "search" in request.url else None

    async with PageCache(directory, mode="forever", key=key) as cache:
        for url, then in (("https://shop.example/search", "hit"), ("https://shop.example/", "")):
            await origin.get(cache, url, method="POST", body=b"q=1")
            assert (await origin.get(cache, url, method="POST", body=b"q=1")).cache == then
        other = await origin.get(cache, "https://shop.example/search", method="POST", body=b"q=2")
        assert other.cache == "miss"


async def test_urls_with_one_key_are_one_page_which_keeps_the_url_that_answered(
    directory: Path, origin: Origin
) -> None:
    async with PageCache(directory, mode="forever", key=lambda r: r.url.split("?")[0]) as cache:
        await origin.get(cache, URL + "?session=1")
        again = await origin.get(cache, URL + "?session=2")
        assert (again.cache, again.url) == ("hit", URL + "?session=1")


async def test_a_redirect_does_not_lead_to_itself_where_both_urls_have_one_key(
    directory: Path, origin: Origin
) -> None:
    request = Request(URL, user_data={"id": 7})
    async with PageCache(directory, mode="forever", key=lambda r: str(r.user_data["id"])) as cache:
        for then in ("miss", "hit"):
            origin.status, origin.headers = 301, [("Location", "/new")]
            first = await cache.exchange(request, Hop(URL), origin.send)
            origin.status, origin.headers = 200, []
            second = await cache.exchange(request, Hop(URL + "/new"), origin.send)
            assert [(r.status, r.cache) for r in (first, second)] == [(301, then), (200, then)]


async def test_headers_of_the_request_choose_the_variant_in_every_mode_and_sessions_do_not(
    cache: PageCache, origin: Origin
) -> None:
    origin.headers = [("Vary", "Accept-Language, User-Agent, Cookie")]

    async def get(language: str, agent: str) -> Response:
        own = {"Accept-Language": language}
        headers = CIMultiDict({**own, "User-Agent": agent})  # the session's
        request = Request(URL, headers=own, cache="forever")
        hop = Hop(URL, headers=headers)
        return await cache.exchange(request, hop, origin.send, cookies=lambda _: agent)

    for language in ("en", "de"):
        origin.body = language.encode()
        assert (await get(language, "one")).cache == "miss"
    for language in ("en", "de"):
        again = await get(language, "two")
        assert (again.cache, again.body) == ("hit", language.encode())


async def test_what_a_private_site_said_is_not_for_pages_of_the_web(
    cache: PageCache, origin: Origin
) -> None:
    origin.is_private = True
    request = Request(URL, cache="forever")
    inside = Hop(URL, is_private=True)
    await cache.exchange(request, inside, origin.send)
    again = await cache.exchange(request, inside, origin.send)
    assert (again.cache, again.is_private) == ("hit", True)
    origin.is_private = False
    outside = await cache.exchange(request, Hop(URL), origin.send)
    assert (outside.cache, outside.is_private) == ("miss", False)
    assert (await cache.exchange(request, Hop(URL), origin.send)).cache == "hit"


# -- what is kept -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 40_000, 300_000, 5_000_000])
async def test_bodies_of_every_size_come_back(cache: PageCache, origin: Origin, size: int) -> None:
    origin.body = os.urandom(size)
    assert (await origin.get(cache, cache="forever")).is_stored
    again = await origin.get(cache, cache="forever")
    assert (again.cache, again.body) == ("hit", origin.body)


async def test_a_body_that_is_too_large_is_not_kept_and_not_lost(
    cache: PageCache, origin: Origin
) -> None:
    origin.body = bytes(MAX_BODY + 1)
    response = await origin.get(cache, cache="forever")
    assert (response.is_stored, len(response.body)) == (False, MAX_BODY + 1)
    assert (await origin.get(cache, cache="forever")).cache == "miss"


def entry() -> tuple[CacheEntry, bytes, bytes]:
    made = CacheEntry(
        url=URL,
        status=200,
        fields=b"A\n1",
        size=len(PAGE),
        requested=1.0,
        received=2.0,
        terms=Terms(lifetime=60.0),
    )
    packed = Packer().compress(PAGE)
    return made, packed, pack(b"key", made, packed)


def test_an_entry_of_which_any_byte_was_changed_is_not_there() -> None:
    _, packed, data = entry()
    assert unpack(b"key", data) is not None
    for place in range(len(data)):
        for change in (1, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= change
            assert unpack(b"key", bytes(damaged)) is None
    for length in range(len(data)):
        assert unpack(b"key", data[:length]) is None
    assert unpack(b"key", data + b"\0") is None
    assert unpack(b"another key", data) is None
    assert decompress(packed, len(PAGE)) == PAGE


@pytest.mark.parametrize("version", [0, 2, 255])
def test_an_entry_of_another_version_is_not_there(version: int) -> None:
    _, _, data = entry()
    assert unpack(b"key", bytes([version]) + data[1:]) is None


def test_a_body_that_is_not_what_its_head_says_is_not_there() -> None:
    bomb = Packer().compress(bytes(2**27))
    assert len(bomb) < 2**14
    for size in (0, 1, len(PAGE), MAX_BODY, MAX_BODY + 1, 2**27, 2**62):
        assert decompress(bomb, size) is None
    for packed in (b"", b"no zstd", Packer().compress(PAGE)[:-1], Packer().compress(PAGE) + b"x"):
        assert decompress(packed, len(PAGE)) is None


async def test_values_that_changed_places_are_not_there(
    cache: PageCache, origin: Origin, directory: Path
) -> None:
    for name in "ab":
        origin.body = name.encode()
        await origin.get(cache, f"{URL}/{name}", cache="forever")
    other = sqlite3.connect(directory / "cache.db")
    (one, first), (two, second) = other.execute("SELECT rowid, value FROM Cache").fetchall()
    other.executemany("UPDATE Cache SET value = ? WHERE rowid = ?", [(second, one), (first, two)])
    other.commit()
    other.close()
    for name in "ab":
        origin.body = b"new " + name.encode()
        again = await origin.get(cache, f"{URL}/{name}", cache="forever")
        assert (again.cache, again.body) == ("miss", b"new " + name.encode())
        assert (await origin.get(cache, f"{URL}/{name}", cache="forever")).cache == "hit"


async def test_a_page_is_in_the_cache_of_the_next_run(directory: Path, origin: Origin) -> None:
    for then in ("miss", "hit"):
        async with PageCache(directory, mode="forever") as cache:
            assert (await origin.get(cache)).cache == then


async def test_a_cache_that_is_broken_leaves_the_crawl_alone(
    tmp_path: Path, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    with caplog.at_level(logging.WARNING):
        async with PageCache(tmp_path / "cache", mode="forever") as cache:
            for _ in range(3):
                response = await origin.get(cache)
                assert (response.status, response.cache, response.is_stored) == (200, "miss", False)
            assert await cache.cached("key", lambda: 1) == 1
    assert len(caplog.records) == 1


async def test_an_error_of_the_site_is_raised_as_it_is(cache: PageCache) -> None:
    async def send(hop: Hop) -> Response:
        raise NetworkError("gone")

    for mode in ("http", "forever"):
        with pytest.raises(NetworkError, match="gone"):
            await cache.exchange(Request(URL, cache=mode), Hop(URL), send)


async def test_a_crawl_from_the_cache_lets_other_tasks_run(directory: Path, origin: Origin) -> None:
    async with PageCache(directory, mode="forever") as cache:
        await origin.get(cache)
        others = 0

        async def run() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(run())
        for _ in range(2000):
            await origin.get(cache)
        task.cancel()
        assert others >= 5


CRAWL = """
import asyncio, os, signal, sys
from crawlkit.cache import PageCache
from crawlkit.http.hops import Hop
from crawlkit.request import CacheMode, Request
from crawlkit.response import Response

async def send(hop):
    os.write(1, b"asked %s\\n" % hop.url.encode())
    return Response(url=hop.url, body=hop.url.encode() * 200)

async def crawl(cache, part):
    for n in range(part, 400, 8):
        url = f"https://shop.example/{n}"
        response = await cache.exchange(Request(url), Hop(url), send)
        assert response.body == url.encode() * 200
        os.write(1, b"handled %s\\n" % url.encode())

async def main():
    async with PageCache(sys.argv[1], mode="forever") as cache:
        await asyncio.gather(*(crawl(cache, part) for part in range(8)))

asyncio.run(main())
"""


def test_after_kill_9_the_site_is_not_asked_for_a_page_whose_handler_began(
    directory: Path,
) -> None:
    handled: set[str] = set()
    for kill_after in (20, 60, None):
        process = subprocess.Popen(
            [sys.executable, "-c", CRAWL, str(directory)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        asked, count = set(), 0
        for line in process.stdout:
            verb, url = line.split()
            if verb == "asked":
                asked.add(url)
                assert url not in handled
            else:
                count += 1
                handled.add(url)
                if count == kill_after:
                    process.send_signal(signal.SIGKILL)
        process.stdout.close()
        assert process.wait() == (-signal.SIGKILL if kill_after else 0)
    assert len(handled) == 400


# -- derived data -----------------------------------------------------------------------------


class Computation:
    """Counts how often it is done; waits until it may end."""

    def __init__(self, value: Any = 42) -> None:
        self.value = value
        self.count = 0
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self) -> Any:
        self.count += 1
        self.has_begun.set()
        await self.may_end.wait()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


async def test_derived_data_is_computed_once_also_across_runs(directory: Path) -> None:
    computed: list[int] = []

    def compute() -> dict[str, int]:
        computed.append(1)
        return {"n": 1}

    for _ in range(2):
        async with PageCache(directory) as cache:
            for _ in range(3):
                assert await cache.cached("key", compute) == {"n": 1}
    assert len(computed) == 1


async def test_callers_at_the_same_time_share_one_computation(cache: PageCache) -> None:
    compute = Computation({"a": [1, (2, 3)]})
    callers = [asyncio.create_task(cache.cached("key", compute)) for _ in range(50)]
    await compute.has_begun.wait()
    compute.may_end.set()
    results = await asyncio.gather(*callers)
    assert compute.count == 1
    assert all(result == {"a": [1, [2, 3]]} for result in results)
    results[0]["a"].clear()
    assert results[1] == {"a": [1, [2, 3]]}, "each caller has its own copy"


async def test_the_first_caller_may_be_cancelled(cache: PageCache) -> None:
    compute = Computation()
    first = asyncio.create_task(cache.cached("key", compute))
    await compute.has_begun.wait()
    second = asyncio.create_task(cache.cached("key", compute))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    compute.may_end.set()
    assert await second == 42
    assert compute.count == 1


async def test_an_error_reaches_every_caller_and_is_not_kept(cache: PageCache) -> None:
    compute = Computation(LookupError("no"))
    callers = [asyncio.create_task(cache.cached("key", compute)) for _ in range(5)]
    await compute.has_begun.wait()
    compute.may_end.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [LookupError] * 5
    compute.value = 42
    assert await cache.cached("key", compute) == 42


async def test_an_error_that_nobody_waits_for_any_more_is_no_noise(cache: PageCache) -> None:
    compute = Computation(LookupError("no"))
    caller = asyncio.create_task(cache.cached("key", compute))
    await compute.has_begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    compute.may_end.set()
    await asyncio.sleep(0.05)


async def test_derived_data_is_good_for_its_ttl(cache: PageCache, time: Time) -> None:
    values = iter(range(10))
    compute = lambda: next(values)  # noqa: E731
    assert await cache.cached("key", compute, ttl=60) == 0
    time.seconds += 59
    assert await cache.cached("key", compute, ttl=60) == 0
    time.seconds += 1
    assert await cache.cached("key", compute, ttl=60) == 1
    time.seconds += 10**9
    assert await cache.cached("key", compute) == 1


async def test_keys_of_derived_data_and_of_pages_never_meet(
    cache: PageCache, origin: Origin
) -> None:
    await origin.get(cache, cache="forever")
    assert await cache.cached(f"GET {URL}", lambda: "derived") == "derived"
    assert (await origin.get(cache, cache="forever")).body == PAGE
    measured = await cache.measure()
    assert (measured["pages"][0], measured["derived"][0]) == (1, 1)


@pytest.mark.parametrize("value", [object(), {1, object()}, lambda: 1, ..., float("nan")])
async def test_what_is_no_json_is_refused_in_one_line(cache: PageCache, value: Any) -> None:
    with pytest.raises(UsageError, match=r"cached\('key'\) cannot be kept: .*JSON-like"):
        await cache.cached("key", lambda: value)


async def test_a_computation_that_asks_for_itself_is_an_error_and_no_deadlock(
    cache: PageCache,
) -> None:
    async def outer() -> Any:
        return await cache.cached("inner", inner)

    async def inner() -> Any:
        return await cache.cached("outer", outer)

    with pytest.raises(UsageError, match="asks for itself"):
        await asyncio.wait_for(cache.cached("outer", outer), 30)


async def test_computations_may_ask_for_each_other(cache: PageCache) -> None:
    async def price() -> float:
        return 2 * float(await cache.cached("rate", lambda: 1.5))

    results = await asyncio.gather(cache.cached("a", price), cache.cached("b", price))
    assert list(results) == [3.0, 3.0]


async def test_closing_ends_computations(directory: Path) -> None:
    cache = PageCache(directory)
    await cache.open()
    compute = Computation()
    caller = asyncio.create_task(cache.cached("key", compute))
    await compute.has_begun.wait()
    await asyncio.wait_for(cache.close(), 30)
    with pytest.raises(asyncio.CancelledError):
        await caller
    with pytest.raises(UsageError, match="ended"):
        await cache.cached("key", lambda: 1)


async def test_requests_that_come_while_the_directory_is_opened_are_kept_too(
    directory: Path, origin: Origin
) -> None:
    async with PageCache(directory) as cache:
        urls = [f"{URL}/{number}" for number in range(20)]
        first = await asyncio.gather(*(origin.get(cache, url, cache="forever") for url in urls))
        assert all(response.is_stored for response in first)


async def test_clear_removes_pages_and_derived_data(cache: PageCache, origin: Origin) -> None:
    await origin.get(cache, cache="forever")
    await cache.cached("key", lambda: 1)
    await cache.clear()
    assert (await origin.get(cache, cache="forever")).cache == "miss"
    assert await cache.cached("key", lambda: 2) == 2


# -- the command line -------------------------------------------------------------------------


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(words), standalone_mode=True)
    return result.exit_code, result.stdout, result.stderr


def in_loop(directory: Path, use: Callable[[PageCache], Awaitable[object]]) -> None:
    async def go() -> None:
        async with PageCache(directory, mode="forever") as cache:
            await use(cache)

    asyncio.run(go())


def test_stats_and_clear_of_a_cache(directory: Path, origin: Origin) -> None:
    in_loop(directory, origin.get)
    in_loop(directory, lambda cache: cache.cached("key", lambda: 1))
    code, out, _ = run("cache", str(directory), "stats")
    assert code == 0
    assert out.count("1 entry") == 2
    code, out, _ = run("cache", str(directory), "stats", "--json")
    assert (code, '"entries": 1' in out) == (0, True)
    code, out, _ = run("cache", str(directory), "clear")
    assert (code, out) == (0, f"2 entries removed from {directory}\n")
    assert '"entries": 0' in run("cache", str(directory), "stats", "--json")[1]


@pytest.mark.parametrize("verb", ["stats", "clear"])
def test_a_directory_without_a_cache_is_one_line_of_error(tmp_path: Path, verb: str) -> None:
    code, out, err = run("cache", str(tmp_path), verb)
    assert (code, out) == (1, "")
    told = "name the directory that the option cache_dir says, which is runs/.cache where it says"
    assert err == f"crawlkit: there is no page cache in {tmp_path}; {told} none\n"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cache_is_one_line_of_error_and_clear_puts_it_aside(
    directory: Path, origin: Origin
) -> None:
    in_loop(directory, origin.get)
    (directory / "cache.db").write_bytes(b"no database at all" * 1000)
    code, out, err = run("cache", str(directory), "stats")
    assert (code, out, err.count("\n")) == (1, "", 1)
    code, out, err = run("cache", str(directory), "clear")
    assert (code, out) == (0, f"0 entries removed from {directory}\n")
    assert "put aside" in err
    assert run("cache", str(directory), "stats")[0] == 0
