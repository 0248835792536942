"""The page cache through whole crawls: what was asked for once is not asked for again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from crawlkit import Crawler, Page, Request, open_run
from crawlkit.request import CacheMode
from crawlkit.testing import Site

from .faults.common import ended

PAGES = ["/", "/a", "/b", "/c"]


class Titles(Crawler):
    """Follows every link and saves every title."""

    persist_interval = 0.05
    max_retries = 0

    def parse(self, page: Page) -> Any:
        page.save({"title": page.css("h1::text").get(), "from": page.response.cache})
        page.follow("a", handler=self.parse_leaf)

    def parse_leaf(self, page: Page) -> None:
        self.parse(page)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        fill(site)
        yield site


@pytest.fixture
def site_of_thread() -> Iterator[Site]:
    with Site() as site:
        fill(site)
        yield site


def fill(site: Site, headers: dict[str, str] | None = None) -> None:
    for path in PAGES:
        site.add_page(path, links=PAGES, headers=headers)


class Lives:
    """One crawl after the other, each a run of its own, with one page cache."""

    def __init__(self, directory: Path, site: Site) -> None:
        self._directory = directory
        self._site = site
        self._number = 0

    async def crawl(
        self, kind: type[Titles] = Titles, *, cache: CacheMode = "forever", **options: Any
    ) -> Titles:
        self._number += 1
        crawler = kind(
            start_urls=[self._site.url("/")],
            store=self._directory / f"run{self._number}",
            cache_dir=str(self._directory / "cache"),
            cache=cache,
            **options,
        )
        await crawler.crawl()
        return crawler


@pytest.fixture
def lives(tmp_path: Path, site: Site) -> Lives:
    return Lives(tmp_path, site)


def items(crawler: Crawler) -> list[dict[str, Any]]:
    with open_run(crawler.job.store.address) as run:
        return list(run.items())


def titles(crawler: Crawler) -> list[str]:
    return sorted(item["title"] for item in items(crawler))


def sources(crawler: Crawler) -> Counter[str]:
    """Where the pages came from, by what their handlers saw."""
    return Counter(item["from"] for item in items(crawler))


def counters(crawler: Crawler) -> tuple[int, int, int, int]:
    """Hits, misses, revalidated, stored."""
    found = crawler.statistics
    return found.cache_hits, found.cache_misses, found.cache_revalidated, found.cache_stored


# -- modes ----------------------------------------------------------------------------------------


async def test_without_a_cache_every_run_asks_the_site_and_nothing_is_kept(
    lives: Lives, site: Site, tmp_path: Path
) -> None:
    for _ in range(2):
        crawler = await lives.crawl(cache="off")
    assert site.hits() == 8
    assert counters(crawler) == (0, 0, 0, 0)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("mode", ["forever", 3600])
async def test_a_page_that_is_kept_is_not_asked_for_by_the_next_run(
    lives: Lives, site: Site, mode: CacheMode
) -> None:
    first = await lives.crawl(cache=mode)
    second = await lives.crawl(cache=mode)
    assert site.hits() == 4
    assert titles(first) == titles(second) == sorted(PAGES)
    assert (sources(first), sources(second)) == ({"miss": 4}, {"hit": 4})
    assert counters(first) == (0, 4, 0, 4)
    assert counters(second) == (4, 0, 0, 0)
    assert second.statistics.bytes_received == 0
    assert second.statistics.cache_bytes_saved == first.statistics.bytes_received > 0


async def test_a_page_that_is_older_than_its_lifetime_is_asked_for_again(
    lives: Lives, site: Site
) -> None:
    await lives.crawl(cache=0.1)
    await asyncio.sleep(0.15)
    crawler = await lives.crawl(cache=0.1)
    assert site.hits() == 8
    assert counters(crawler) == (0, 4, 0, 4)


async def test_by_the_rules_of_http_a_page_is_kept_asked_about_or_fetched_as_its_headers_say(
    lives: Lives, site: Site
) -> None:
    def validated(request: web.BaseRequest) -> web.Response:
        headers = {"ETag": '"one"', "Cache-Control": "no-cache"}
        is_known = request.headers.get("If-None-Match") == '"one"'
        if is_known:
            return web.Response(status=304, headers=headers)
        return web.Response(text="<h1>/b</h1>", content_type="text/html", headers=headers)

    site.add_page("/", links=PAGES, headers={"Cache-Control": "max-age=600"})
    site.add_page("/a", headers={"Cache-Control": "max-age=600"})
    site.add_page("/b", validated)
    site.add_page("/c", headers={"Cache-Control": "no-store"})
    first = await lives.crawl(cache="http")
    assert counters(first) == (0, 4, 0, 3)
    site.forget()
    second = await lives.crawl(cache="http")
    assert {hit.path for hit in site.requests} - {"/robots.txt"} == {"/b", "/c"}
    assert titles(second) == titles(first) == sorted(PAGES)
    assert counters(second)[:3] == (2, 1, 1)
    assert second.statistics.status_codes == {200: 1, 304: 1}


async def test_a_failure_is_never_kept(lives: Lives, site: Site) -> None:
    site.add_page("/a", fail_times=1, fail_status=503)
    site.add_page("/b", status=403)
    first = await lives.crawl(max_pauses=0, max_delay=0.05)
    assert first.statistics.requests_failed == 2
    second = await lives.crawl(max_delay=0.05)
    assert (site.hits("/a"), site.hits("/b"), site.hits("/c")) == (2, 2, 1)
    assert titles(second) == ["/", "/a", "/c"]


async def test_a_mode_holds_for_urls_of_a_pattern_and_a_request_may_have_its_own(
    lives: Lives, site: Site
) -> None:
    class Choosing(Titles):
        def parse(self, page: Page) -> None:
            page.save({"title": page.css("h1::text").get(), "from": page.response.cache})
            if page.request.depth == 0:
                page.follow(["/a", "/b"], handler=self.parse_leaf)
                page.follow("/c", handler=self.parse_leaf, cache="off")

    for _ in range(2):
        crawler = await lives.crawl(
            Choosing, cache="off", cache_rules={"**/a": "forever", "**/c": "forever"}
        )
    assert {path: site.hits(path) for path in PAGES} == {"/": 2, "/a": 1, "/b": 2, "/c": 2}
    assert counters(crawler) == (1, 0, 0, 0)


async def test_what_a_cached_crawl_did_is_counted_by_handler(lives: Lives, site: Site) -> None:
    for _ in range(2):
        crawler = await lives.crawl(cache_rules={"**/c": "off"})
    rows = crawler.statistics.by_handler
    found = {name: (row.cache_hits, row.cache_misses) for name, row in rows.items()}
    assert found == {"parse": (1, 0), "parse_leaf": (2, 0)}
    with open_run(crawler.job.store.address) as run:
        assert run.statistics.by_handler["parse_leaf"].cache_hits == 2
        assert run.statistics.cache_hits == 3
        assert run.statistics.cache_bytes_saved == crawler.statistics.cache_bytes_saved > 0


async def test_pages_under_one_key_of_the_users_own_are_one_page(lives: Lives, site: Site) -> None:
    site.add_page("/", links=["/p?id=1&visit=7", "/p?id=2&visit=7"])
    for number in (1, 2):
        for visit in (7, 8):
            site.add_page(f"/p?id={number}&visit={visit}", f"<h1>p{number}</h1>")

    class Keyed(Titles):
        def cache_key(self, request: Request) -> str | None:
            return request.url.partition("&visit")[0] if "/p?" in request.url else None

    first = await lives.crawl(Keyed)
    site.add_page("/", links=["/p?id=1&visit=8", "/p?id=2&visit=8"])
    second = await lives.crawl(Keyed, cache_rules={"**/": "off"})
    assert titles(first) == titles(second) == ["/", "p1", "p2"]
    assert counters(second) == (2, 0, 0, 0)
    assert [site.hits(f"/p?id={n}&visit={visit}") for visit in (7, 8) for n in (1, 2)] == [
        1,
        1,
        0,
        0,
    ]


async def test_urls_with_one_key_that_are_asked_for_at_once_are_fetched_once(
    tmp_path: Path, site: Site
) -> None:
    async def slow(request: web.BaseRequest) -> str:
        await asyncio.sleep(0.1)
        return "<title>one</title>"

    class Keyed(Crawler):
        cache = "forever"
        obey_robots = False

        def cache_key(self, request: Request) -> str | None:
            return request.url.partition("?")[0]

        async def parse(self, page: Page) -> None:
            page.save({"url": page.request.url, "from": page.response.cache})

    for number in range(5):
        site.add_page(f"/page?sid={number}", slow)
    urls = [site.url(f"/page?sid={number}") for number in range(5)]
    crawler = Keyed(start_urls=urls, store=tmp_path / "run", cache_dir=tmp_path / "cache")
    await crawler.crawl()
    assert len(site.requests) == 1
    assert sources(crawler) == {"miss": 1, "hit": 4}


async def test_pages_from_the_cache_wait_for_no_delay(lives: Lives, site: Site) -> None:
    """The delay is the site's, and the site is not asked."""
    await lives.crawl(delay=0.05)
    began = time.monotonic()
    await lives.crawl(delay=1.5)
    # Only the robots.txt was asked for: the first page after it waits for it, the others do not.
    assert time.monotonic() - began < 3 * 1.5
    assert site.hits() == 4
    assert site.hits("/robots.txt") == 2


# -- offline --------------------------------------------------------------------------------------

OFFLINE = """
from crawlkit import Crawler

class Shop(Crawler):
    cache = "forever"
    max_retries = 3

    def parse(self, page):
        page.save({"title": page.css("h1::text").get()})
        page.follow("a")
"""


def test_an_offline_run_fetches_nothing_and_what_is_not_there_is_a_failure_at_once(
    site_of_thread: Site, tmp_path: Path
) -> None:
    """Not even a robots.txt is asked for; and a new page in the site's own list is a miss."""
    site = site_of_thread
    (tmp_path / "shop.py").write_text(OFFLINE)

    def run(store: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "crawlkit", "run", str(tmp_path / "shop.py")]
        command += [site.url("/"), site.url("/new"), "--no-progress", *options]
        command += ["--store", str(tmp_path / store)]
        command += ["--set", f"cache_dir={tmp_path / 'cache'}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run("first").returncode == 0
    site.add_page("/new")
    site.forget()
    done = run("second", "--offline")
    assert done.returncode == 0, done.stderr
    assert site.requests == []
    assert "Traceback" not in done.stderr
    with open_run(tmp_path / "second") as found:
        assert sorted(item["title"] for item in found.items()) == sorted(PAGES)
        assert found.statistics.cache_hits == 4 + 1  # that the new page was not there is kept, too
        (failed,) = found.requests("failed")
        assert (failed.url, failed.retries) == (site.url("/new"), 0)
    shutil.rmtree(tmp_path / "cache")
    done = run("third", "--offline")
    assert done.returncode == 0, done.stderr
    assert site.requests == []
    with open_run(tmp_path / "third") as found:
        assert [error.kind for error in found.statistics.errors] == ["OfflineError"]
        assert {o.retries for o in found.requests("failed")} == {0}


# -- derived data ---------------------------------------------------------------------------------


async def test_data_that_many_pages_share_is_computed_once_also_across_runs(
    lives: Lives, site: Site
) -> None:
    computed: list[str] = []

    class Sharing(Titles):
        async def parse(self, page: Page) -> None:
            for key in ("maker", "maker", "seller"):
                value = await self.cached(key, lambda key=key: self.compute(key))
                assert value == {"of": key}
            page.follow("a", handler=self.parse_offer)

        async def parse_offer(self, page: Page) -> None:
            await self.parse(page)

        async def compute(self, key: str) -> dict[str, str]:
            computed.append(key)
            await asyncio.sleep(0.05)  # the others come meanwhile
            return {"of": key}

    for cache in ("forever", "off"):
        crawler = await lives.crawl(Sharing, cache=cache)
        assert crawler.statistics.requests_finished == 4
    assert sorted(computed) == ["maker", "seller"]


async def test_a_computation_that_fails_is_the_error_of_its_page_and_is_tried_again(
    lives: Lives, site: Site
) -> None:
    computed: list[str] = []

    class Failing(Titles):
        async def parse(self, page: Page) -> None:
            page.save({"value": await self.cached("key", self.compute, ttl=60)})

        def compute(self) -> int:
            computed.append("once more")
            if len(computed) == 1:
                raise ValueError("not yet")
            return 42

    crawler = await lives.crawl(Failing, max_retries=1)
    assert items(crawler) == [{"value": 42}]
    assert crawler.statistics.requests_retried == 1
    assert len(computed) == 2


# -- kill -9 --------------------------------------------------------------------------------------

KILLED = """
import os, signal
from urllib.parse import urlsplit
from crawlkit import Crawler
from crawlkit.crawling import parts
from crawlkit.fetching import AiohttpFetcher

# What a browser makes of these pages is what they are, and it takes its time to start.
parts._browser = lambda options, limits, *others: AiohttpFetcher(limits=limits)

class Killed(Crawler):
    cache = "forever"
    render = bool(os.environ["RENDER"])
    persist_interval = 30.0
    concurrency_per_host = 8

    async def parse(self, page):
        path = urlsplit(page.url).path
        with open(os.environ["BEGUN"], "a") as begun:
            begun.write(path + "\\n")
        self.pages = getattr(self, "pages", 0) + 1
        if self.pages == int(os.environ["KILLED_AFTER"]):
            os.kill(os.getpid(), signal.SIGKILL)
        page.save({"path": path})
        page.follow("a")
"""


@pytest.mark.parametrize("render", ["", "yes"], ids=["plain", "rendered"])
def test_after_kill_9_the_site_is_asked_for_no_page_again_whose_handler_had_begun(
    tmp_path: Path, render: str
) -> None:
    """There is hardly a checkpoint between the kills: the cache alone knows what was fetched."""
    (tmp_path / "killed.py").write_text(KILLED)
    begun = tmp_path / "begun"
    with Site() as site:
        paths = ["/", *(f"/{number}" for number in range(1, 150))]
        for number, path in enumerate(paths):
            site.add_page(path, links=[f"/{n}" for n in range(9 * number + 1, 9 * number + 10)])
        for path in paths[17:]:
            site.add_page(path)
        command = [sys.executable, "-m", "crawlkit", "run", str(tmp_path / "killed.py")]
        command += [site.url("/"), "--store", str(tmp_path / "run"), "--no-progress"]
        command += ["--set", f"cache_dir={tmp_path / 'cache'}"]
        known: set[str] = set()
        for after in (1, 60, 0):
            before = len(site.requests)
            environment = {
                **os.environ,
                "BEGUN": str(begun),
                "KILLED_AFTER": str(after),
                "RENDER": render,
            }
            with open(tmp_path / "log", "ab") as log:
                code = ended(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
            assert code == (-signal.SIGKILL if after else 0), (tmp_path / "log").read_text()
            asked = {hit.path for hit in site.requests[before:]}
            assert not asked & known
            known = set(begun.read_text().split())
        with open_run(tmp_path / "run") as run:
            found = Counter(item["path"] for item in run.items())
            statistics = run.statistics
    assert found == Counter(paths)
    assert (statistics.requests_finished, statistics.pending) == (150, 0)
    # What had come before a checkpoint, and was handled after it, was there twice.
    assert statistics.cache_hits + statistics.cache_misses >= 150
    assert statistics.cache_hits >= 1


# -- a cache that does not work -------------------------------------------------------------------


def in_the_way(directory: Path) -> None:
    """There is a file where the directory should be."""
    directory.write_text("not a directory")


def garbage(directory: Path) -> None:
    """Somebody has written over the cache's database."""
    directory.mkdir()
    (directory / "cache.db").write_bytes(os.urandom(50_000))


@pytest.mark.parametrize("harm", [in_the_way, garbage])
async def test_a_cache_that_is_broken_costs_a_warning_and_no_page(
    lives: Lives, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Any
) -> None:
    harm(tmp_path / "cache")
    crawler = await lives.crawl()
    assert titles(crawler) == sorted(PAGES)
    assert crawler.exit_code == 0
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "\n" not in warnings[0].getMessage()
    assert str(tmp_path / "cache") in warnings[0].getMessage()


FULL = """
import resource, signal
from crawlkit import Crawler

class Full(Crawler):
    cache = "forever"

    def on_start(self):
        # From now on no file may grow beyond what is enough for the run, and not for the cache.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    def parse(self, page):
        page.save({"title": page.css("h1::text").get()})
        page.follow("a")
"""


def test_a_disk_that_is_full_turns_the_cache_off_and_the_crawl_finishes(
    site_of_thread: Site, tmp_path: Path
) -> None:
    site = site_of_thread
    (tmp_path / "full.py").write_text(FULL)
    bodies = [f"/{number}" for number in range(40)]
    site.add_page("/", links=bodies)
    for path in bodies:
        noise = os.urandom(30_000).hex()  # 1.2 MB in all, however well it is packed
        site.add_page(path, f"<h1>{path}</h1><!--{noise}-->")
    command = [sys.executable, "-m", "crawlkit", "run", str(tmp_path / "full.py"), site.url("/")]
    command += ["--store", str(tmp_path / "run"), "--no-progress"]
    command += ["--set", f"cache_dir={tmp_path / 'cache'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    about_it = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(about_it) == 1
    assert "cache" in about_it[0]
    with open_run(tmp_path / "run") as run:
        assert len({json.dumps(item) for item in run.items()}) == 41
        assert run.statistics.requests_failed == 0
