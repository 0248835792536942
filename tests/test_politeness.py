"""How a whole crawl treats the sites it visits: robots.txt, pace, pauses, budgets, capacity."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from crawlkit import Crawler, Page, open_run
from crawlkit.crawling.gate import Gate, HostPaused
from crawlkit.errors import StatusError
from crawlkit.events import SystemInfo
from crawlkit.machine import Memory
from crawlkit.politeness import robots as robots_module
from crawlkit.politeness.throttle import Throttle
from crawlkit.testing import Hit, ManualClock, Site

from .faults.common import ended, happens, kill
from .stopwatch import Stopwatch, assert_apart

EARLY = 0.02
"""Seconds by which a request may seem to come too early: it is the site that looks at its clock."""


class Titles(Crawler):
    """Follows every link and saves every title."""

    store = "memory:"
    persist_interval = 0.05

    def parse(self, page: Page) -> None:
        page.save({"title": page.css("h1::text").get()})
        page.follow("a")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


@pytest.fixture
async def other() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


def robots(site: Site, *lines: str, **more: Any) -> None:
    """Serve a robots.txt with these lines for everyone."""
    text = "\n".join(["User-agent: *", *lines, ""]).encode()
    site.add_page("/robots.txt", text, headers={"Content-Type": "text/plain"}, **more)


def paths(site: Site) -> list[str]:
    return [hit.path for hit in site.requests]


def times(hits: list[Hit]) -> list[float]:
    return [hit.at for hit in hits]


def gaps(hits: list[Hit]) -> list[float]:
    return [later.at - earlier.at for earlier, later in pairwise(hits)]


# -- robots.txt -----------------------------------------------------------------------------------


async def test_no_page_is_asked_for_before_robots_txt_was_read_which_is_asked_for_once(
    site: Site,
) -> None:
    robots(site, "Disallow: /private/", delay=0.15)
    starts = [f"/{number}" for number in range(6)]
    for path in starts:
        site.add_page(path)
    statistics = await Titles(start_urls=map(site.url, starts)).crawl()
    assert paths(site)[0] == "/robots.txt"
    assert site.hits("/robots.txt") == 1
    assert site.requests[1].at - site.requests[0].at >= 0.15
    assert statistics.requests_finished == 6


async def test_what_is_not_fetched_does_not_wait_for_the_pace_of_its_host(site: Site) -> None:
    robots(site, "Disallow: /private/", "Crawl-delay: 2")
    site.add_page("/", links=[*(f"/private/{number}" for number in range(100)), "/last"])
    site.add_page("/last")
    took = Stopwatch()
    statistics = await Titles(start_urls=[site.url("/")]).crawl()
    assert took.elapsed < 60  # and not 200
    assert statistics.skipped_by_reason["robots"] == 100
    assert len(site.requests) == 3
    assert_apart(times(site.requests), 2, took)


async def test_what_robots_txt_forbids_is_not_fetched_and_its_outcome_names_the_line(
    site: Site, tmp_path: Path
) -> None:
    robots(site, "Disallow: /private/", "Allow: /private/but", "Disallow: /*.pdf$")
    links = ["/private/a", "/private/but-this", "/private/b", "/leaflet.pdf", "/leaflet.pdf?page=2"]
    site.add_page("/", links=links)
    for link in links:
        site.add_page(link)
    run_at = tmp_path / "run"
    statistics = await Titles(start_urls=[site.url("/")], store=run_at).crawl()
    assert sorted(paths(site)[2:]) == ["/leaflet.pdf?page=2", "/private/but-this"]
    assert statistics.skipped_by_reason == {"robots": 3}
    assert (statistics.requests_total, statistics.requests_finished) == (6, 3)
    assert (statistics.requests_dropped, statistics.pending) == (3, 0)
    with open_run(run_at) as run:
        found = {o.url: o.detail for o in run.requests("skipped")}
    assert found.keys() == {site.url(p) for p in ("/private/a", "/private/b", "/leaflet.pdf")}
    rules = site.url("/robots.txt")
    assert found[site.url("/private/a")] == f"robots: Disallow: /private/ (line 2) of {rules}"
    assert found[site.url("/leaflet.pdf")] == f"robots: Disallow: /*.pdf$ (line 4) of {rules}"


async def test_each_origin_has_a_robots_txt_of_its_own(site: Site, other: Site) -> None:
    robots(site, "Disallow: /a")
    robots(other, "Disallow: /b")
    links = [home.url(path) for home in (site, other) for path in ("/a", "/b")]
    site.add_page("/", links=links)
    for home in (site, other):
        home.add_page("/a")
        home.add_page("/b")
    await Titles(start_urls=[site.url("/")], scope="all").crawl()
    assert set(paths(site)) == {"/robots.txt", "/", "/b"}
    assert set(paths(other)) == {"/robots.txt", "/a"}


async def test_a_robots_txt_is_known_in_the_next_life(site: Site, tmp_path: Path) -> None:
    robots(site, "Disallow: /private")
    site.add_page("/", links=["/a", "/private"])
    site.add_page("/a")
    for max_pages in (1, 10):
        crawler = Titles(start_urls=[site.url("/")], store=tmp_path / "run", max_pages=max_pages)
        statistics = await crawler.crawl()
    assert paths(site) == ["/robots.txt", "/", "/a"]
    assert (statistics.lives, statistics.skipped_by_reason) == (2, {"robots": 1})


async def test_robots_txt_is_neither_asked_for_nor_obeyed_where_it_is_turned_off(
    site: Site,
) -> None:
    robots(site, "Disallow: /", "Crawl-delay: 30")
    site.add_page("/", links=["/a"])
    site.add_page("/a")
    statistics = await Titles(start_urls=[site.url("/")], obey_robots=False).crawl()
    assert paths(site) == ["/", "/a"]
    assert statistics.requests_finished == 2


@pytest.mark.parametrize("status", [401, 404, 410])
async def test_a_site_without_a_robots_txt_allows_everything(site: Site, status: int) -> None:
    site.add_page("/robots.txt", b"User-agent: *\nDisallow: /\n", status=status)
    site.add_page("/")
    statistics = await Titles(start_urls=[site.url("/")]).crawl()
    assert statistics.requests_finished == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_while_a_robots_txt_cannot_be_had_nothing_is_fetched_there_and_no_retry_is_used_up(
    site: Site, other: Site, status: int
) -> None:
    robots(site, "Disallow: /private", fail_times=1, fail_status=status, retry_after=1)
    starts = [site.url(f"/{number}") for number in range(4)]
    for number in range(4):
        site.add_page(f"/{number}")
    other.add_page("/")
    crawler = Titles(start_urls=[*starts, other.url("/")], max_retries=0, max_delay=0.05)
    statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (5, 0)
    assert statistics.requests_retried == 0
    assert paths(site)[:2] == ["/robots.txt", "/robots.txt"]
    assert min(gaps(site.requests)[:1]) >= 1 - EARLY
    assert [error.kind for error in statistics.errors] == ["RobotsError"]
    # Meanwhile the other host was not kept waiting.
    assert other.requests[-1].at < site.requests[1].at


async def test_a_site_whose_robots_txt_is_in_trouble_for_good_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pause is free, and the second failure is the end of the only try."""
    monkeypatch.setattr(robots_module, "TROUBLE", 0.1)  # it would be a minute
    site.add_page("/robots.txt", b"", status=500)
    site.add_page("/")
    crawler = Titles(start_urls=[site.url("/")], max_pauses=1, max_retries=0, max_delay=0.05)
    statistics = await crawler.crawl()
    assert statistics.requests_failed == 1
    assert paths(site) == ["/robots.txt"] * 2


async def test_a_site_that_cannot_be_reached_fails_with_that_error_not_with_one_of_robots_txt() -> (
    None
):
    async with Site() as gone:
        url = gone.url("/")
    statistics = await Titles(start_urls=[url], max_retries=0).crawl()
    assert statistics.requests_failed == 1
    assert [error.kind for error in statistics.errors] == ["NetworkError"]


# -- nofollow -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "meta", "follows"),
    [
        ({"X-Robots-Tag": "nofollow"}, "", False),
        ({"X-Robots-Tag": "noindex, none"}, "", False),
        ({"X-Robots-Tag": "crawlkit: nofollow"}, "", False),
        ({"X-Robots-Tag": "otherbot: nofollow"}, "", True),
        ({"X-Robots-Tag": "noindex"}, "", True),
        ({}, '<meta name="robots" content="noindex, NoFollow">', False),
        ({}, '<meta name="crawlkit" content="nofollow">', False),
        ({}, '<meta name="otherbot" content="nofollow">', True),
    ],
)
async def test_the_links_of_a_page_that_says_nofollow_are_not_followed(
    site: Site, headers: dict[str, str], meta: str, follows: bool
) -> None:
    html = f"<html><head>{meta}</head><body><h1>home</h1><a href=/a>a</a><a href=/b>b</a>"
    site.add_page("/", html, headers={"Content-Type": "text/html", **headers})
    site.add_page("/a")
    site.add_page("/b")
    crawler = Titles(start_urls=[site.url("/")])
    statistics = await crawler.crawl()
    assert statistics.items_saved == (3 if follows else 1)
    assert statistics.skipped_by_reason == ({} if follows else {"nofollow": 2})


async def test_nofollow_is_not_obeyed_where_robots_txt_is_not(site: Site) -> None:
    site.add_page("/", links=["/a"], headers={"X-Robots-Tag": "nofollow"})
    site.add_page("/a")
    statistics = await Titles(start_urls=[site.url("/")], obey_robots=False).crawl()
    assert statistics.requests_finished == 2


# -- pace -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["Crawl-delay: 0.2", "Request-rate: 5/1", "Crawl-delay: 3600"])
async def test_a_crawl_delay_lies_between_all_requests_robots_txt_included(
    site: Site, line: str
) -> None:
    """A delay of an hour is cut to `max_delay`."""
    robots(site, line)
    site.add_page("/", links=["/a", "/b", "/c"])
    for path in ("/a", "/b", "/c"):
        site.add_page(path)
    took = Stopwatch()
    await Titles(start_urls=[site.url("/")], max_delay=0.2).crawl()
    assert len(site.requests) == 5
    assert_apart(times(site.requests), 0.2, took)


async def test_a_slow_host_does_not_slow_the_others_down(site: Site, other: Site) -> None:
    robots(site, "Crawl-delay: 0.3")
    links = ["/a", "/b", "/c", "/d", "/e"]
    for home in (site, other):
        home.add_page("/", links=links)
        for link in links:
            home.add_page(link)
    await Titles(start_urls=[site.url("/"), other.url("/")]).crawl()
    # The slow one needs 1.8 s, however fast the machine is, and the other much less.
    assert other.requests[-1].at < site.requests[-1].at - 0.6


WAITING = """
from crawlkit import Crawler

class Waiting(Crawler):
    persist_interval = 0.05

    def parse(self, page):
        page.follow("a")
"""


def test_pauses_and_long_delays_are_kept_by_a_crawl_that_is_killed(
    site_of_thread: Site, tmp_path: Path
) -> None:
    """A 429 with 3 s on one host, a Crawl-delay of 1.6 s on another, and kill -9 in both."""
    (tmp_path / "waiting.py").write_text(WAITING)
    site = site_of_thread
    with Site() as refusing:
        robots(site, "Crawl-delay: 1.6")
        site.add_page("/", links=["/a"])
        site.add_page("/a")
        refusing.add_page("/", fail_times=1, fail_status=429, retry_after=3)
        urls = [site.url("/"), refusing.url("/")]
        command = [sys.executable, "-m", "crawlkit", "run", str(tmp_path / "waiting.py"), *urls]
        command += ["--store", str(tmp_path / "run"), "--no-progress"]
        with open(tmp_path / "log", "ab") as log:
            first = subprocess.Popen(command, stdout=log, stderr=log)
            assert happens(first, lambda: bool(site.hits("/")), every=0.01)
            assert happens(first, lambda: is_saved(tmp_path / "run"), every=0.05)
            kill(first)
            killed_at = time.monotonic()
            assert ended(subprocess.Popen(command, stdout=log, stderr=log)) == 0
        assert paths(site) == ["/robots.txt", "/", "/a"]
        assert paths(refusing) == ["/robots.txt", "/", "/"]
        assert min(gaps(site.requests)) >= 1.6 - EARLY
        assert gaps(refusing.requests)[1] >= 3 - EARLY
        assert killed_at < refusing.requests[-1].at


def is_saved(store: Path) -> bool:
    """Whether a page and a refusal are in a checkpoint, which is no later than what they led to."""
    with open_run(store) as run:
        return run.statistics.requests_finished == 1 and 429 in run.statistics.status_codes


@pytest.fixture
def site_of_thread() -> Any:
    with Site() as site:
        yield site


# -- 429 and 503 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "form"), [(429, "1"), (503, "Mon, 01 Jan 2001 00:00:01 GMT")])
async def test_a_host_is_left_alone_for_as_long_as_it_asks_in_seconds_or_by_a_date(
    site: Site, status: int, form: str
) -> None:
    """The date is compared with the site's own clock, and this one is many years slow."""
    headers = {"Retry-After": form, "Date": "Mon, 01 Jan 2001 00:00:00 GMT"}

    def answer(request: web.BaseRequest) -> web.Response:
        is_first = site.hits("/") == 1
        return web.Response(status=status if is_first else 200, headers=headers)

    site.add_page("/", answer)
    statistics = await Titles(start_urls=[site.url("/")], max_retries=0).crawl()
    assert paths(site) == ["/robots.txt", "/", "/"]
    assert 1 - EARLY <= gaps(site.requests)[1] < 10
    assert (statistics.requests_finished, statistics.requests_retried) == (1, 0)
    assert statistics.status_codes == {status: 1, 200: 1}


async def test_refusals_of_parallel_requests_are_one_pause(site: Site) -> None:
    """With one pause that is free, one refusal too many would cost a page its only try."""
    refused: list[float] = []

    def answer(request: web.BaseRequest) -> web.Response:
        if len(refused) < 4:
            refused.append(time.monotonic())
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(text="<h1>well</h1>", content_type="text/html")

    links = [f"/{number}" for number in range(4)]
    site.add_page("/", links=links)
    for link in links:
        site.add_page(link, answer, delay=0.2)
    crawler = Titles(start_urls=[site.url("/")], max_pauses=1, max_retries=0)
    statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (5, 0)
    assert statistics.status_codes == {200: 5, 429: 4}
    assert statistics.requests_retried == 0
    again = [hit.at for hit in site.requests if hit.at > refused[-1]]
    assert len(again) == 4
    assert min(again) >= refused[0] + 1 - EARLY


async def test_a_host_that_refuses_on_and_on_is_given_up_in_the_end(site: Site) -> None:
    """Two pauses are free, the third uses up the retry, and the fourth is the end."""
    site.add_page("/", status=429, headers={"Retry-After": "0"})
    crawler = Titles(start_urls=[site.url("/")], max_pauses=2, max_retries=1, max_delay=0.05)
    statistics = await crawler.crawl()
    assert site.hits("/") == 4
    assert (statistics.requests_failed, statistics.requests_retried) == (1, 1)
    assert statistics.pending == 0


REST = 150


@pytest.fixture
def one_refuses(site: Site) -> str:
    """A site with a page that is always refused, and others one after the other; its URL."""
    site.add_page("/", links=["/refused", "/0"])
    # So late that another page is answered in between.
    site.add_page("/refused", status=429, headers={"Retry-After": "0"}, delay=0.1)
    for number in range(REST):
        site.add_page(f"/{number}", links=[f"/{number + 1}"] * (number + 1 < REST), delay=0.005)
    return site.url("/refused")


QUICK: dict[str, Any] = {"max_depth": 1000, "max_pauses": 3, "max_retries": 1, "max_delay": 0.01}


@pytest.mark.parametrize("status", [429, 503])
async def test_a_page_that_is_always_refused_is_given_up_though_its_host_is_well(
    site: Site, one_refuses: str, tmp_path: Path, status: int
) -> None:
    """Three pauses of its own are free, the fourth uses up its retry, and the fifth is the end."""
    left = []

    def answer(request: web.BaseRequest) -> web.Response:
        left.append(REST - sum(site.hits(f"/{number}") for number in range(REST)))
        return web.Response(status=status, headers={"Retry-After": "0"})

    site.add_page("/refused", answer, delay=0.1)
    crawler = Titles(start_urls=[site.url("/")], store=tmp_path / "run", **QUICK)
    async with asyncio.timeout(60):
        statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (1 + REST, 1)
    assert (statistics.requests_retried, statistics.pending) == (1, 0)
    assert len(left) == 5
    assert left[-1] > 0, "not only when nothing else was left to be asked for"
    assert all(site.hits(f"/{number}") == 1 for number in range(REST))
    with open_run(tmp_path / "run") as run:
        (failed,) = run.requests("failed")
    assert (failed.url, failed.status, failed.retries) == (one_refuses, status, 1)
    assert failed.error == ("BlockedError" if status == 429 else "StatusError")


async def test_a_page_that_is_always_refused_is_given_up_over_lives_too(
    site: Site, one_refuses: str, tmp_path: Path
) -> None:
    """A life counts its pauses from none, but what they have cost of its retries stays."""
    limits = {**QUICK, "max_pauses": 1, "max_retries": 2, "start_urls": [site.url("/")]}
    lives = 0
    while True:
        lives += 1
        hits = site.hits("/refused")
        crawler = Titles(store=tmp_path / "run", **limits)
        crawling = asyncio.create_task(crawler.crawl())
        async with asyncio.timeout(30):
            # The first is free, and the second costs a retry.
            while not crawling.done() and site.hits("/refused") < hits + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            crawler.job.stop(1.0)
            statistics = await crawling
        if not statistics.pending:
            break
        assert lives < 9
    assert lives > 1
    assert (statistics.requests_failed, statistics.requests_retried) == (1, 2)
    assert statistics.requests_finished == 1 + REST


async def test_no_page_of_a_host_with_a_limit_of_its_own_is_given_up(site: Site) -> None:
    """It answers a few, then refuses all for a while, over and over: that is no page's fault."""
    answers, full_until = 0, 0.0

    def answer(request: web.BaseRequest) -> web.Response:
        nonlocal answers, full_until
        answers += 1
        if answers % 4 == 0:
            full_until = time.monotonic() + 0.5
        if time.monotonic() < full_until:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(text="<h1>well</h1>", content_type="text/html")

    site.add_page("/", links=[f"/{number}" for number in range(12)])
    for number in range(12):
        site.add_page(f"/{number}", answer, delay=0.01)
    crawler = Titles(start_urls=[site.url("/")], **QUICK | {"max_pauses": 2, "max_retries": 0})
    statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (13, 0)
    assert statistics.status_codes[429] >= 6


def test_what_a_host_refuses_together_with_all_else_is_held_against_no_page() -> None:
    clock = ManualClock()
    throttle = Throttle(clock)
    unused: dict[str, Any] = dict.fromkeys(("scope", "queue", "budgets", "robots", "fetch_robots"))
    gate = Gate(clock=clock, throttle=throttle, max_pauses=2, **unused)
    throttle.started("shop.example")

    def is_free(asked: int) -> bool:
        try:
            gate.pause("shop.example", StatusError("HTTP 503", 503), 1.0, clock.now(), asked)
        except HostPaused:
            return True
        return False

    def succeed() -> None:
        clock.advance(5)
        throttle.succeeded("shop.example", started_at=clock.now())
        clock.advance(5)

    for number in range(20):
        assert is_free(100 + number)
        assert is_free(5)  # in the same pause
        clock.advance(5)
        assert is_free(5)  # in the second in a row
        succeed()
    # That others are answered well, and it is refused again and again, is another thing.
    free = []
    for _ in range(4):
        free.append(is_free(6))
        succeed()
    assert free == [True, True, False, False]
    # And a host that refuses on and on is given up, whatever it is asked for.
    free = []
    for number in range(4):
        free.append(is_free(200 + number))
        clock.advance(5)
    assert free == [True, True, False, False]


async def test_while_one_host_is_left_alone_the_crawl_of_the_others_goes_on(
    site: Site, other: Site
) -> None:
    site.add_page("/", fail_times=1, fail_status=503, retry_after=1)
    other.add_page("/", links=[f"/{number}" for number in range(20)])
    for number in range(20):
        other.add_page(f"/{number}")
    statistics = await Titles(start_urls=[site.url("/"), other.url("/")]).crawl()
    assert statistics.requests_finished == 22
    assert other.requests[-1].at < site.requests[-1].at


# -- budgets --------------------------------------------------------------------------------------


async def test_an_endless_calendar_ends_with_its_budget_and_the_rest_is_crawled(
    site: Site, tmp_path: Path
) -> None:
    class Calendar(Site):
        async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
            path = request.raw_path
            if path.startswith("/day/"):
                day = int(path.removeprefix("/day/"))
                self.add_page(path, links=[f"/day/{day + 1}", f"/day/{2 * day}", f"/item/{day}"])
            return await super().respond(request)

    async with Calendar() as calendar:
        calendar.add_page("/", links=["/day/1", "/item/0"])
        for number in range(40):
            calendar.add_page(f"/item/{number}")
        run_at = tmp_path / "run"
        budgets = {"**/day/*": 12}
        crawler = Titles(start_urls=[calendar.url("/")], budgets=budgets, store=run_at)
        statistics = await crawler.crawl()
        days = [path for path in paths(calendar) if path.startswith("/day/")]
        items = {path for path in paths(calendar) if path.startswith("/item/")}
    assert len(days) == 12
    assert items == {"/item/0"} | {day.replace("day", "item") for day in days}
    assert statistics.pending == 0
    assert statistics.skipped_by_reason == {"budget": statistics.requests_dropped}
    with open_run(run_at) as run:
        assert {o.detail for o in run.requests("skipped")} == {"budget: 12 of **/day/*"}


async def test_a_budget_of_a_host_is_exact_over_lives_and_counts_pages_not_tries(
    site: Site, other: Site, tmp_path: Path
) -> None:
    links = [home.url(f"/{number}") for home in (site, other) for number in range(30)]
    site.add_page("/", links=links)
    for number in range(30):
        # One in three is tried again, and one is not there.
        site.add_page(f"/{number}", fail_times=number % 3 == 0, status=404 if number == 1 else 200)
        other.add_page(f"/{number}")
    for max_pages in (4, 9, None):
        crawler = Titles(
            start_urls=[site.url("/")],
            scope="all",
            store=tmp_path / "run",
            max_pages=max_pages,
            max_pages_per_host=8,
        )
        statistics = await crawler.crawl()
    assert statistics.lives == 3
    assert statistics.requests_finished + statistics.requests_failed == 16
    for home in (site, other):
        assert len(set(paths(home)) - {"/robots.txt"}) >= 8
        assert home.hits() <= 16
    assert len(set(paths(other)) - {"/robots.txt"}) == 8
    assert statistics.skipped_by_reason == {"max_pages_per_host": 61 - 16}
    assert statistics.pending == 0


# -- capacity -------------------------------------------------------------------------------------


async def test_where_memory_is_short_the_crawl_goes_on_with_one_request_at_a_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = 2**30, 2**30 - 2**20
    monkeypatch.setattr(
        "crawlkit.running.measuring.Machine.memory", lambda self: Memory(limit, used)
    )
    site.add_page("/", links=[f"/{number}" for number in range(8)])
    for number in range(8):
        site.add_page(f"/{number}", delay=0.05)

    class Short(Titles):
        async def on_start(self) -> None:
            for _ in range(5):
                await self.job.emit(SystemInfo(0.1, used, 0.0, 2.0, limit, used))

    statistics = await Short(start_urls=[site.url("/")], concurrency=16).crawl()
    assert statistics.requests_finished == 9
    assert max(hit.open for hit in site.requests) == 1
