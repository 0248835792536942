"""The crawler, end to end on a loopback site."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from crawlkit import Crawler, CrawlkitError, Page, Request, Statistics, open_run
from crawlkit.errors import (
    HandlerError,
    MissingError,
    OptionError,
    StatusError,
    StoreWriteError,
    UsageError,
)
from crawlkit.events import SystemInfo
from crawlkit.fetching import AiohttpFetcher
from crawlkit.testing import Site

from .stopwatch import Stopwatch, assert_apart


class Titles(Crawler):
    """Follows every link and saves every title."""

    concurrency_per_host = 16
    persist_interval = 0.1

    async def parse(self, page: Page) -> None:
        page.save({"title": page.css("h1::text").get()})
        page.follow("a")


def html(title: str, *links: str) -> str:
    anchors = "".join(f'<a href="{link}">{link}</a>' for link in links)
    return f"<html><body><h1>{title}</h1>{anchors}</body></html>"


@pytest.fixture
async def site() -> Any:
    async with Site() as site:
        yield site


def titles(crawler: Crawler) -> list[str]:
    reader = crawler.job.store.reader()
    return sorted(json.loads(item.data)["title"] for item in reader.items())


async def test_every_page_within_reach_is_handled_once(site: Site, tmp_path: Path) -> None:
    site.add_page("/", html("home", "/a", "/b", "/a#part", "https://elsewhere.example/"))
    site.add_page("/a", html("a", "/", "/b", "b"))
    site.add_page("/b", html("b", "/a", "mailto:me@example.org"))
    crawler = Titles(start_urls=[site.url("/")], store=tmp_path / "run")
    statistics = await crawler.crawl()
    assert crawler.exit_code == 0
    assert titles(crawler) == ["a", "b", "home"]
    assert site.hits() == 3
    assert statistics.requests_finished == statistics.requests_total == 3
    assert statistics.pending == statistics.in_flight == 0
    assert statistics.skipped_by_reason == {"scope": 1}


async def test_a_finished_crawl_that_is_run_again_asks_for_nothing(
    site: Site, tmp_path: Path
) -> None:
    site.add_page("/", html("home"))
    for _ in range(2):
        crawler = Titles(start_urls=[site.url("/")], store=tmp_path / "run")
        statistics = await crawler.crawl()
        assert crawler.exit_code == 0
    assert site.hits() == 1
    assert statistics.lives == 2
    assert statistics.requests_duplicate == 0


async def test_a_start_url_that_is_added_later_is_crawled(site: Site, tmp_path: Path) -> None:
    site.add_page("/", html("home"))
    site.add_page("/new", html("new"))
    await Titles(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    crawler = Titles(start_urls=[site.url("/new"), site.url("/")], store=tmp_path / "run")
    await crawler.crawl()
    assert titles(crawler) == ["home", "new"]


async def test_fresh_throws_away_what_the_run_held(site: Site, tmp_path: Path) -> None:
    site.add_page("/", html("home"))
    await Titles(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    crawler = Titles(start_urls=[site.url("/")], store=tmp_path / "run")
    statistics = await crawler.crawl(fresh=True)
    assert site.hits() == 2
    assert statistics.lives == 1


async def test_a_handler_that_fails_half_way_leaves_no_trace_but_its_error(site: Site) -> None:
    class Failing(Titles):
        max_retries = 0

        async def parse(self, page: Page) -> None:
            page.save({"title": "half"})
            page.follow("a")
            page.update_state(lambda state: state.update(seen=True))
            raise ValueError("half-way")

    site.add_page("/", html("home", "/a"))
    crawler = Failing(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert titles(crawler) == []
    assert crawler.state == {}
    assert statistics.requests_total == statistics.requests_failed == 1
    assert [(group.kind, group.count) for group in statistics.errors] == [("ValueError", 1)]


async def test_a_state_change_that_fails_is_undone_with_the_whole_page(site: Site) -> None:
    class Failing(Titles):
        max_retries = 0

        async def parse(self, page: Page) -> None:
            page.save({"title": "x"})
            page.update_state(lambda state: state.update(count=1))
            page.update_state(lambda state: state["missing"])

    site.add_page("/", html("home"))
    crawler = Failing(start_urls=[site.url("/")], store="memory:")
    await crawler.crawl()
    assert crawler.state == {}
    assert titles(crawler) == []


async def assert_fails_without_a_trace(site: Site, kind: type[Crawler]) -> None:
    """Its one page fails, and nothing that it did to the state is left."""
    site.add_page("/", html("home"))
    crawler = kind(start_urls=[site.url("/")], store="memory:", max_retries=0)
    statistics = await crawler.crawl()
    assert crawler.state == {}
    assert statistics.requests_failed == 1


async def test_state_that_json_cannot_hold_fails_the_page_that_wanted_it(site: Site) -> None:
    class Failing(Titles):
        async def parse(self, page: Page) -> None:
            page.update_state(lambda state: state.update(bad=object()))

    await assert_fails_without_a_trace(site, Failing)


async def test_a_part_that_cannot_be_saved_ends_the_crawl_with_its_error_and_loses_nothing(
    site: Site, tmp_path: Path
) -> None:
    class Broken(Titles):
        async def parse(self, page: Page) -> None:
            await super().parse(page)
            self.state["bad"] = object()

    site.add_page("/", html("home", "/a"))
    site.add_page("/a", html("a"), delay=0.5)
    with pytest.raises(UsageError, match="the state cannot be saved"):
        await Broken(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    crawler = Titles(start_urls=[site.url("/")], store=tmp_path / "run")
    await crawler.crawl()
    assert titles(crawler) == ["a", "home"]


async def test_a_request_that_fails_is_tried_again_and_its_retries_are_counted(site: Site) -> None:
    site.add_page("/", html("home"), fail_times=2)
    failures = []

    class Watching(Titles):
        async def on_error(self, request: Request, error: Exception) -> None:
            failures.append((request.retry_count, type(error)))

    crawler = Watching(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert titles(crawler) == ["home"]
    assert failures == [(0, StatusError), (1, StatusError)]
    assert statistics.requests_retried == 2
    assert statistics.retry_histogram == {2: 1}


async def test_a_request_is_given_up_after_its_last_retry(site: Site) -> None:
    site.add_page("/", html("home"), status=500)
    given_up = []

    class Watching(Titles):
        max_retries = 1

        def on_failed(self, request: Request, error: Exception) -> None:
            given_up.append(request.url)

    crawler = Watching(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert given_up == [site.url("/")]
    assert site.hits() == 2
    assert (statistics.requests_failed, statistics.requests_retried) == (1, 1)
    (failed,) = crawler.job.store.reader().outcomes("failed")
    assert (failed.error, failed.status, failed.retries) == ("StatusError", 500, 1)


async def test_a_page_that_is_not_there_is_not_asked_for_again(site: Site) -> None:
    site.add_page("/", html("home", "/gone"))
    crawler = Titles(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert site.hits("/gone") == 1
    assert (statistics.requests_finished, statistics.requests_failed) == (1, 1)
    assert crawler.exit_code == 0


async def test_a_status_that_is_accepted_goes_to_the_handler(site: Site) -> None:
    site.add_page("/", html("not here"), status=404)
    crawler = Titles(start_urls=[site.url("/")], store="memory:", accept_status=[404])
    await crawler.crawl()
    assert titles(crawler) == ["not here"]


async def test_too_many_requests_pauses_the_host_and_costs_no_retry(site: Site) -> None:
    answers = iter([429, 503, 200])

    async def respond(request: Any) -> Any:
        status = next(answers)
        headers = {} if status == 200 else {"Retry-After": "0"}
        return web.Response(
            text=html("home"), status=status, headers=headers, content_type="text/html"
        )

    site.add_page("/", respond)
    crawler = Titles(start_urls=[site.url("/")], store="memory:", max_retries=0)
    statistics = await crawler.crawl()
    assert titles(crawler) == ["home"]
    assert statistics.requests_retried == statistics.requests_failed == 0
    assert statistics.status_codes == {429: 1, 503: 1, 200: 1}


async def test_pages_deeper_than_max_depth_are_skipped_and_say_why(site: Site) -> None:
    site.add_page("/", html("0", "/1"))
    site.add_page("/1", html("1", "/2"))
    site.add_page("/2", html("2"))
    crawler = Titles(start_urls=[site.url("/")], store="memory:", max_depth=1)
    statistics = await crawler.crawl()
    assert titles(crawler) == ["0", "1"]
    assert statistics.skipped_by_reason == {"max_depth": 1}
    (skipped,) = crawler.job.store.reader().outcomes("skipped")
    assert skipped.url == site.url("/2")
    assert skipped.detail == f"max_depth: 1, on {site.url('/1')}"


async def test_max_pages_is_exact_and_a_higher_one_goes_on(site: Site, tmp_path: Path) -> None:
    pages = [f"/{n}" for n in range(30)]
    site.add_page("/", html("home", *pages))
    for page in pages:
        site.add_page(page, html(page))
    run = tmp_path / "run"
    crawler = Titles(start_urls=[site.url("/")], store=run, max_pages=7)
    statistics = await crawler.crawl()
    assert crawler.exit_code == 0
    assert statistics.requests_finished == site.hits() == 7
    crawler = Titles(start_urls=[site.url("/")], store=run, max_pages=12)
    assert (await crawler.crawl()).requests_finished == site.hits() == 12
    crawler = Titles(start_urls=[site.url("/")], store=run)
    assert (await crawler.crawl()).requests_finished == site.hits() == 31


async def test_higher_priorities_are_fetched_first(site: Site) -> None:
    class Sorted(Titles):
        concurrency = 1

        async def parse(self, page: Page) -> None:
            page.save({"title": page.url})
            for n in range(9):
                page.follow([f"/{n}"], handler=self.leaf, priority=n)

        async def leaf(self, page: Page) -> None:
            pass

    site.add_page("/", html("home"))
    for n in range(9):
        site.add_page(f"/{n}", html(str(n)))
    await Sorted(start_urls=[site.url("/")], store="memory:").crawl()
    assert [hit.path for hit in site.requests][2:] == [f"/{n}" for n in reversed(range(9))]


async def test_no_host_is_asked_by_more_at_once_than_its_limit(site: Site) -> None:
    pages = [f"/{n}" for n in range(20)]
    site.add_page("/", html("home", *pages))
    for page in pages:
        site.add_page(page, html(page), delay=0.02)
    crawler = Titles(
        start_urls=[site.url("/")], store="memory:", concurrency=16, concurrency_per_host=3
    )
    await crawler.crawl()
    assert max(hit.open for hit in site.requests) == 3


async def test_requests_to_one_host_start_at_least_the_delay_apart(site: Site) -> None:
    pages = [f"/{n}" for n in range(5)]
    site.add_page("/", html("home", *pages))
    for page in pages:
        site.add_page(page, html(page))
    took = Stopwatch()
    await Titles(start_urls=[site.url("/")], store="memory:", delay=0.05).crawl()
    assert len(site.requests) == 7  # robots.txt is one
    assert_apart([hit.at for hit in site.requests], 0.05, took)


async def test_a_request_carries_its_method_headers_body_and_user_data(site: Site) -> None:
    got: list[Any] = []

    async def respond(request: Any) -> Any:
        got.append((request.method, request.headers.get("X-Key"), await request.text()))
        return web.json_response({"ok": True})

    class Posting(Crawler):
        async def parse(self, page: Page) -> None:
            page.follow(
                ["/api"],
                handler=self.answer,
                method="POST",
                headers={"X-Key": "k"},
                body=b"question",
                user_data={"n": 7},
            )

        def answer(self, page: Page) -> None:
            page.save({"ok": page.json()["ok"], "n": page.request.user_data["n"]})

    site.add_page("/", html("home"))
    site.add_page("/api", respond)
    crawler = Posting(start_urls=[site.url("/")], store="memory:")
    await crawler.crawl()
    assert got == [("POST", "k", "question")]
    assert [item.data for item in crawler.job.store.reader().items()] == [b'{"ok":true,"n":7}']


async def test_start_requests_may_come_from_a_generator_and_a_file(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(6):
        site.add_page(f"/{n}", html(str(n)))
    urls = tmp_path / "urls.txt"
    urls.write_text(f"# comment\n{site.url('/0')}\nnot a url\n\n{site.url('/1')}\n")

    class Many(Titles):
        def start_requests(self) -> Any:
            yield site.url("/2")
            yield Request(site.url("/3"), user_data={"x": 1})

    crawler = Many(start_file=urls, store="memory:")
    statistics = await crawler.crawl()
    assert titles(crawler) == ["0", "1", "2", "3"]
    assert "urls.txt:3" in caplog.text
    assert statistics.skipped_by_reason == {"malformed": 1}


async def test_an_async_generator_of_start_requests_goes_on_where_it_was(
    site: Site, tmp_path: Path
) -> None:
    for n in range(1200):
        site.add_page(f"/{n}", html(str(n)))
    given: list[int] = []

    class Many(Titles):
        async def start_requests(self) -> Any:
            for n in range(1200):
                given.append(n)
                yield site.url(f"/{n}")
                if n % 100 == 0:
                    await asyncio.sleep(0)

    crawler = Many(store=tmp_path / "run", max_pages=10)
    await crawler.crawl()
    assert len(given) == 1200
    crawler = Many(store=tmp_path / "run")
    statistics = await crawler.crawl()
    assert len(given) == 1200, "a generator that came to its end is not begun again"
    assert statistics.requests_finished == 1200
    assert statistics.requests_duplicate == 0
    assert Counter(hit.path for hit in site.requests).most_common(1)[0][1] == 1


@dataclass
class Product:
    title: str
    price: float


async def test_a_bad_item_is_an_error_with_its_page_and_costs_nothing_else(site: Site) -> None:
    class Typed(Titles):
        item_type = Product

        async def parse(self, page: Page) -> None:
            page.save({"title": "good", "price": 1})
            page.save({"title": "bad", "price": "much"})
            page.follow("a", handler=self.leaf)

        async def leaf(self, page: Page) -> None:
            page.save(Product("leaf", 2.5))

    site.add_page("/", html("home", "/leaf"))
    site.add_page("/leaf", html("leaf"))
    crawler = Typed(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert titles(crawler) == ["good", "leaf"]
    assert statistics.requests_finished == statistics.items_saved == 2
    (group,) = statistics.errors
    assert group.kind == "ItemError"
    assert group.examples == [site.url("/")]


async def test_state_and_values_are_there_in_the_next_life(site: Site, tmp_path: Path) -> None:
    site.add_page("/", html("home"))

    class Keeping(Titles):
        async def parse(self, page: Page) -> None:
            page.update_state(lambda state: state.update(pages=state.get("pages", 0) + 1))
            await self.set_value("last", {"url": page.url})

    await Keeping(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    seen: dict[str, Any] = {}

    class Reading(Keeping):
        async def on_start(self) -> None:
            seen.update(state=dict(self.state), last=await self.get_value("last"))

    await Reading(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    assert seen == {"state": {"pages": 1}, "last": {"url": site.url("/")}}
    with open_run(tmp_path / "run") as run:
        assert run.state == {"pages": 1}
        assert run.value("last") == {"url": site.url("/")}


async def test_a_value_is_kept_at_once_also_by_a_handler_that_fails(site: Site) -> None:
    site.add_page("/", html("home"))

    class Failing(Titles):
        max_retries = 0

        async def parse(self, page: Page) -> None:
            await self.set_value("seen", page.url)
            page.update_state(lambda state: state.update(seen=page.url))
            raise ValueError("no price")

    crawler = Failing(start_urls=[site.url("/")], store="memory:")
    await crawler.crawl()
    assert (await crawler.get_value("seen"), crawler.state) == (site.url("/"), {})


async def test_a_handler_that_cannot_be_found_again_is_refused_when_it_is_passed(
    site: Site,
) -> None:
    class Wrong(Titles):
        max_retries = 3

        async def parse(self, page: Page) -> None:
            page.follow("a", handler=lambda page: None)

    site.add_page("/", html("home", "/a"))
    crawler = Wrong(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert site.hits() == 1, "a mistake in the crawler is not tried again"
    (group,) = statistics.errors
    assert group.kind == HandlerError.__name__


async def test_a_redirect_is_followed_within_the_scope_only(site: Site) -> None:
    site.add_page("/", html("home", "/in", "/out"))
    site.add_page("/in", "", status=302, headers={"Location": "/target"})
    site.add_page("/out", "", status=302, headers={"Location": "http://elsewhere.example/"})
    site.add_page("/target", html("target"))
    crawler = Titles(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert titles(crawler) == ["home", "target"]
    (group,) = statistics.errors
    assert group.kind == "RedirectError"
    assert statistics.requests_failed == 1


async def test_cookies_of_a_session_are_sent_and_outlive_the_process(
    site: Site, tmp_path: Path
) -> None:
    site.add_page("/", html("home", "/a"), headers={"Set-Cookie": "id=7; Path=/; Max-Age=3600"})
    site.add_page("/a", html("a"))
    site.add_page("/b", html("b"))
    await Titles(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    await Titles(start_urls=[site.url("/b")], store=tmp_path / "run").crawl()
    sent = {hit.path: hit.headers.get("Cookie") for hit in site.requests}
    assert sent == {"/robots.txt": None, "/": None, "/a": "id=7", "/b": "id=7"}


async def test_listeners_hear_of_every_outcome(site: Site) -> None:
    site.add_page("/", html("home", "/gone", "https://elsewhere.example/"))
    heard = Counter[str]()
    crawler = Titles(start_urls=[site.url("/")], store="memory:")
    for name in ("requestHandled", "requestFailed", "requestSkipped", "exit"):
        crawler.on(name, lambda event: heard.update([event.name]))
    await crawler.crawl()
    assert heard == {"requestHandled": 1, "requestFailed": 1, "requestSkipped": 1, "exit": 1}


async def test_items_stream_to_a_file_of_json_lines(site: Site, tmp_path: Path) -> None:
    site.add_page("/", html("home", "/a"))
    site.add_page("/a", html("a"))
    output = tmp_path / "items.jsonl"
    await Titles(start_urls=[site.url("/")], store=tmp_path / "run", output=output).crawl()
    assert sorted(output.read_text().splitlines()) == ['{"title":"a"}', '{"title":"home"}']


@pytest.mark.parametrize("name", ["items.jsonl", "items.csv"])
async def test_a_handler_that_goes_to_another_directory_leaves_run_and_items_where_they_are(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Their addresses are relative, as the default one is."""

    class Going(Titles):
        async def parse(self, page: Page) -> None:
            monkeypatch.chdir("/")
            await super().parse(page)

    site.add_page("/", html("home", "/a"))
    site.add_page("/a", html("a"))
    monkeypatch.chdir(tmp_path)
    await Going(start_urls=[site.url("/")], store="run", output=name).crawl()
    with open_run(tmp_path / "run") as run:
        assert len(list(run.items())) == 2
        assert list(run.check()) == []
    assert "home" in (tmp_path / name).read_text()


def test_an_option_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean concurrency"):
        Titles(concurency=4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency", 0),
        ("delay", -1),
        ("max_pages", 0),
        ("timeout", "fast"),
        ("max_depth", None),  # which is no limit only where that is the default
        ("session_max_age", None),
        ("durability", "Full"),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=option):
        Titles(**{option: value})


async def test_a_malformed_start_url_is_refused_before_anything_is_lost(
    site: Site, tmp_path: Path
) -> None:
    crawler = Titles(start_urls=["ftp://example.org/"], store=tmp_path / "run")
    with pytest.raises(UsageError, match="ftp"):
        await crawler.crawl()
    site.add_page("/", html("home"))
    await Titles(start_urls=[site.url("/")], store=tmp_path / "run").crawl()


async def test_an_error_in_on_start_ends_the_crawl_with_that_error(site: Site) -> None:
    class Broken(Titles):
        async def on_start(self) -> None:
            raise CrawlkitError("no key; set KEY")

    with pytest.raises(CrawlkitError, match="set KEY"):
        await Broken(start_urls=[site.url("/")], store="memory:").crawl()


@pytest.mark.parametrize("obey_robots", [True, False])
async def test_a_package_that_is_not_installed_ends_the_crawl_and_no_request_is_given_up(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obey_robots: bool
) -> None:
    """With `UsageError`'s exit code, 2; once the package is there, the crawl goes on."""
    site.add_page("/", html("home", "/a"))
    site.add_page("/a", html("a"))
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    given: dict[str, Any] = {"start_urls": [site.url("/"), site.url("/a")], "store": tmp_path}
    crawler = Titles(proxies=["socks5://127.0.0.1:1"], obey_robots=obey_robots, **given)
    with pytest.raises(MissingError, match=r"pip install 'crawlkit\[socks\]'") as raised:
        await crawler.crawl()
    assert raised.value.exit_code == 2
    with open_run(tmp_path) as run:
        assert (run.statistics.pending, run.statistics.requests_failed) == (2, 0)
    statistics = await Titles(**given).crawl()
    assert (statistics.requests_finished, statistics.pending) == (2, 0)


async def test_a_run_can_be_read_while_it_goes_on(site: Site, tmp_path: Path) -> None:
    site.add_page("/", html("home", "/slow"))
    site.add_page("/slow", html("slow"), delay=60)
    crawler = Titles(start_urls=[site.url("/")], store=tmp_path / "run")
    crawl = asyncio.create_task(crawler.crawl())
    while not site.hits("/slow"):  # noqa: ASYNC110 - which the store had before it was asked for
        await asyncio.sleep(0.05)
    with open_run(tmp_path / "run") as run:
        assert run.is_live
        assert [item["title"] for item in run.items()] == ["home"]
        assert run.statistics.requests_finished == 1
    crawler.job.stop(0.0)
    await crawl


async def test_a_fetcher_that_cannot_be_closed_costs_no_checkpoint(
    site: Site, tmp_path: Path
) -> None:
    class Stuck(AiohttpFetcher):
        async def close(self) -> None:
            await super().close()
            raise OSError("stuck")

    site.add_page("/", html("home"))
    crawler = Titles(start_urls=[site.url("/")], store=tmp_path / "run", persist_interval=60)
    crawler.fetcher = Stuck(allow_private=True)
    with pytest.raises(OSError, match="stuck"):
        await crawler.crawl()
    with open_run(tmp_path / "run") as run:
        assert [item["title"] for item in run.items()] == ["home"]
        assert run.statistics.lives == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}, "and nothing goes on"


async def test_a_store_in_trouble_keeps_nobody_from_seeing_what_the_machine_bears(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked each second whether somebody else counts the time."""
    crawler = Titles(store="memory:", concurrency=64)
    heard: list[object] = []

    async def look() -> None:
        raise StoreWriteError("the server is gone")

    crawler.on("crawlerStatus", heard.append)
    await crawler.job.open(signals=False)
    crawler._parts.timekeeper.look = look  # type: ignore[method-assign]
    await crawler.job.emit(SystemInfo(0.5, 1, 0.0, memory_limit_bytes=100, memory_used_bytes=99))
    assert crawler.queue.limit == 16, "memory is short"
    assert heard
    assert "listener" not in caplog.text
    await crawler.job.close(finished=False)


async def cancelled() -> None:
    """Wait for a task that somebody else has cancelled."""
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def cancelled_by_itself() -> None:
    """Wait in a task that cancels itself."""
    _cancel_this_task()
    await asyncio.sleep(0)


async def test_a_handler_whose_own_task_is_cancelled_has_failed(site: Site, tmp_path: Path) -> None:
    """It is not the worker that is cancelled: no page is lost in silence, and the crawl goes on."""

    class Cancelling(Titles):
        max_retries = 0

        async def parse(self, page: Page) -> None:
            if page.url.endswith("/a"):
                await cancelled()
            await super().parse(page)

    site.add_page("/", html("home", "/a", "/b"))
    site.add_page("/a", html("a"))
    site.add_page("/b", html("b"))
    crawler = Cancelling(start_urls=[site.url("/")], store=tmp_path / "run", concurrency=1)
    async with asyncio.timeout(10):
        statistics = await crawler.crawl()
    assert titles(crawler) == ["b", "home"]
    assert (statistics.requests_finished, statistics.requests_failed) == (2, 1)
    assert "cancelled" in statistics.errors[0].message
    assert statistics.pending == 0


async def test_a_hook_whose_own_task_is_cancelled_is_reported_and_costs_no_request(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Cancelling(Titles):
        max_retries = 0

        async def on_error(self, request: Request, error: Exception) -> None:
            await cancelled()

    site.add_page("/", html("home"), status=500)
    crawler = Cancelling(start_urls=[site.url("/")], store=tmp_path / "run", concurrency=1)
    async with asyncio.timeout(10):
        statistics = await crawler.crawl()
    assert statistics.requests_failed == 1
    assert "on_error failed" in caplog.text


@pytest.mark.parametrize("wait", [cancelled, cancelled_by_itself])
async def test_start_requests_whose_own_task_is_cancelled_end_the_crawl_with_an_error(
    site: Site, wait: Callable[[], Awaitable[None]]
) -> None:
    class Cancelling(Titles):
        async def start_requests(self) -> Any:
            yield site.url("/")
            await wait()

    site.add_page("/", html("home"))
    async with asyncio.timeout(10):
        with pytest.raises(RuntimeError, match="cancelled"):
            await Cancelling(store="memory:").crawl()


async def test_a_handler_that_cancels_its_own_task_has_failed_and_the_crawl_goes_on(
    site: Site,
) -> None:
    """Libraries do that to end a wait. The crawl ended with 0, and with the page still pending."""

    class Cancelling(Titles):
        max_retries = 0
        concurrency = 1

        async def parse(self, page: Page) -> None:
            if not page.url.endswith("/"):
                _cancel_this_task()
            if page.url.endswith("/a"):
                await asyncio.sleep(0)
            elif page.url.endswith("/b"):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            await super().parse(page)

    site.add_page("/", html("home", "/a", "/b", "/c"))
    for name in "abc":
        site.add_page(f"/{name}", html(name))
    crawler = Cancelling(start_urls=[site.url("/")], store="memory:")
    async with asyncio.timeout(10):
        statistics = await crawler.crawl()
    assert titles(crawler) == ["b", "c", "home"]
    assert (statistics.requests_finished, statistics.requests_failed) == (3, 1)
    assert statistics.pending == 0
    assert crawler.exit_code == 0


async def test_a_handler_that_waits_in_vain_after_a_cancellation_has_failed(site: Site) -> None:
    """That its task was once cancelled does not make it the end of the crawl for later pages."""

    class Waiting(Titles):
        max_retries = 0
        concurrency = 1

        async def parse(self, page: Page) -> None:
            if page.url.endswith("/"):
                _cancel_this_task()
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                page.follow("a")
            else:
                await cancelled()

    site.add_page("/", html("home", "/a", "/b"))
    site.add_page("/a", html("a"))
    site.add_page("/b", html("b"))
    async with asyncio.timeout(10):
        statistics = await Waiting(start_urls=[site.url("/")], store="memory:").crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (1, 2)
    assert statistics.pending == 0


class Panic(BaseException):
    """What a library in Rust raises."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise TypeError("no text")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(Panic("index out of bounds"), "RuntimeError"), (Unspeakable(), "Unspeakable")],
)
async def test_an_error_of_whatever_kind_fails_its_page_and_not_the_crawl(
    site: Site, error: BaseException, kind: str
) -> None:
    class Failing(Titles):
        max_retries = 1

        async def parse(self, page: Page) -> None:
            if page.url.endswith("/a"):
                raise error
            await super().parse(page)

    site.add_page("/", html("home", "/a", "/b"))
    site.add_page("/a", html("a"))
    site.add_page("/b", html("b"))
    crawler = Failing(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert titles(crawler) == ["b", "home"]
    assert (statistics.requests_failed, statistics.requests_retried) == (1, 1)
    (group,) = statistics.errors
    assert (group.kind, group.count) == (kind, 2)


async def test_a_panic_between_state_changes_undoes_them_with_the_whole_page(site: Site) -> None:
    class Failing(Titles):
        async def parse(self, page: Page) -> None:
            page.update_state(lambda state: state.update(count=1))
            page.update(_panic)

    await assert_fails_without_a_trace(site, Failing)


async def test_a_state_change_that_is_async_fails_its_page_and_says_what_to_write(
    site: Site,
) -> None:
    """It would change nothing, and nobody would know."""

    class Failing(Titles):
        async def parse(self, page: Page) -> None:
            async def count(state: dict[str, Any]) -> None:
                state["count"] = 1

            page.update_state(count)

    site.add_page("/", html("home"))
    statistics = await Failing(start_urls=[site.url("/")], store="memory:").crawl()
    (group,) = statistics.errors
    assert (group.kind, group.count) == ("UsageError", 1)
    assert "cannot be async" in group.message


async def test_a_hook_that_panics_is_reported_and_costs_no_request(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Titles):
        max_retries = 0

        def on_failed(self, request: Request, error: Exception) -> None:
            _panic()

    site.add_page("/", html("home"), status=500)
    statistics = await Failing(start_urls=[site.url("/")], store="memory:").crawl()
    assert statistics.requests_failed == 1
    assert "on_failed failed: Panic" in caplog.text


async def test_what_on_finish_enqueues_is_left_for_the_next_life_and_said_to_be(
    site: Site, tmp_path: Path
) -> None:
    class Growing(Titles):
        async def on_finish(self, statistics: Statistics) -> None:
            self.queue.add(Request(site.url("/late"), private=True))

    site.add_page("/", html("home"))
    site.add_page("/late", html("late"))
    codes = []
    for _ in range(2):
        crawler = Growing(start_urls=[site.url("/")], store=tmp_path / "run")
        await crawler.crawl()
        codes.append((crawler.exit_code, crawler.statistics.pending))
    assert codes == [(75, 1), (0, 0)]
    assert titles(crawler) == ["home", "late"]


async def test_a_crawler_that_has_crawled_does_not_crawl_again_and_says_so(site: Site) -> None:
    """What was stopped would never have come to an end. Another crawler goes on with the run."""

    class Stopping(Titles):
        async def parse(self, page: Page) -> None:
            await super().parse(page)
            self.job.stop()

    site.add_page("/", html("home", "/a"))
    site.add_page("/a", html("a"))
    crawler = Stopping(start_urls=[site.url("/")], store="memory:", concurrency=1)
    await crawler.crawl()
    with pytest.raises(UsageError, match="this Stopping has crawled already; make another one"):
        await crawler.crawl()


def test_a_handler_that_ends_the_process_with_0_has_not_finished_the_crawl() -> None:
    """Whoever starts the process would not start it again, and the rest would stay undone."""

    class Leaving(Titles):
        async def parse(self, page: Page) -> None:
            sys.exit()

    with Site() as site:
        site.add_page("/", html("home"))
        with pytest.raises(SystemExit) as ended:
            Leaving(start_urls=[site.url("/")], store="memory:").run()
    assert ended.value.code == 75


def _panic() -> None:
    raise Panic("index out of bounds")


def _cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("headers", {"X-Page": 1}),
        ("priority", 1.5),
        ("priority", 10**30),
        ("session", 5),
        ("unique_key", 5),
        ("method", 5),
        ("body", "text"),
        ("cache", "always"),
        ("user_data", ["a"]),
        ("render", 1),
    ],
)
async def test_a_request_that_could_not_be_read_back_is_refused_and_the_run_stays_whole(
    site: Site, tmp_path: Path, field: str, value: Any
) -> None:
    """It was written, and a run that holds it was taken to be damaged from then on."""

    class Wrong(Titles):
        max_retries = 0

        async def parse(self, page: Page) -> None:
            await super().parse(page)
            if page.url.endswith("/a"):
                page.follow("/c", **{field: value})
            elif page.url.endswith("/b"):
                page.follow(Request("/c", **{field: value}))

    site.add_page("/", html("home", "/a", "/b"))
    site.add_page("/a", html("a"))
    site.add_page("/b", html("b"))
    for turn in range(2):
        crawler = Wrong(start_urls=[site.url("/")], store=tmp_path / "run")
        statistics = await crawler.crawl()
        assert titles(crawler) == ["home"], turn
        assert statistics.requests_failed == 2
        assert {group.kind for group in statistics.errors} == {"UsageError"}
        assert all(f"wrong {field}" in group.message for group in statistics.errors)
    wrong: Any = [Request(site.url("/c"), **{field: value})]
    starting = Wrong(store=tmp_path / "other")
    starting.start_requests = lambda: wrong  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=f"wrong {field}"):
        await starting.crawl()


async def test_user_data_is_what_it_was_when_the_link_was_followed(site: Site) -> None:
    class Counting(Titles):
        async def parse(self, page: Page) -> None:
            data = {"numbers": [0]}
            for path in ("/1", "/2"):
                data["numbers"][0] += 1
                page.follow(path, handler=self.parse_page, user_data=data)
            page.follow(Request("/3", user_data=data), handler=self.parse_page)
            data["numbers"].clear()

        async def parse_page(self, page: Page) -> None:
            page.save({"title": f"{page.url[-2:]} {page.request.user_data['numbers']}"})

    for path in ("/", "/1", "/2", "/3"):
        site.add_page(path, html(path))
    crawler = Counting(start_urls=[site.url("/")], store="memory:")
    await crawler.crawl()
    assert titles(crawler) == ["/1 [1]", "/2 [2]", "/3 [2]"]


async def test_what_a_handler_that_fails_does_to_its_request_is_undone(site: Site) -> None:
    class Changing(Titles):
        async def parse(self, page: Page) -> None:
            page.follow("/a", handler=self.parse_a, user_data={"tries": []}, headers={"X-A": "1"})

        async def parse_a(self, page: Page) -> None:
            page.request.user_data["tries"].append(object())  # nothing that could be saved
            page.request.headers["X-B"] = "2"
            if not page.request.retry_count:
                raise ValueError("once")
            page.save({"title": str(len(page.request.user_data["tries"]))})

    site.add_page("/", html("home"))
    site.add_page("/a", html("a"))
    crawler = Changing(start_urls=[site.url("/")], store="memory:")
    statistics = await crawler.crawl()
    assert titles(crawler) == ["1"]
    assert statistics.requests_retried == 1
    assert ["X-B" in hit.headers for hit in site.requests if hit.path == "/a"] == [False, False]
