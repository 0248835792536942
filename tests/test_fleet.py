"""Several workers of one crawl: the same items, statistics and limits as with one."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest

from crawlkit import Crawler, Page, Request
from crawlkit.checkpoint import Checkpoint, Saved
from crawlkit.clock import Clock
from crawlkit.crawling.allowance import PAGES, Allowance
from crawlkit.discovery.start import StartRequests
from crawlkit.errors import StoreFencedError, StoreWriteError, UsageError
from crawlkit.job import Job
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import RequestQueue
from crawlkit.run import Run
from crawlkit.statistics import Statistics
from crawlkit.stores.base import Allotment, Receipt, Store
from crawlkit.stores.memory import MemoryStore
from crawlkit.testing import Site
from crawlkit.workers.hub import Hub
from crawlkit.workers.merging import merge

from .fleets import FLEETS, Fleet, Seats, fleets
from .stopwatch import Stopwatch, assert_apart


@pytest.fixture(params=fleets())
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Each kind of store that workers share."""
    async with FLEETS[request.param](tmp_path) as fleet:
        yield fleet


class Tally:
    merge = staticmethod(merge)

    def __init__(self) -> None:
        self.pages = Counter[str]()

    def restore(self, saved: Saved) -> None:
        self.pages = Counter(saved.load({}))

    def collect(self, checkpoint: Checkpoint) -> None:
        checkpoint.save(self.pages)


class Shop(Crawler):
    persist_interval = 0.05
    concurrency = 4
    scope = "all"
    obey_robots = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tally = self.persist("tally", Tally())
        self.calls: list[str] = []
        self.at_the_end: Statistics | None = None

    def on_start(self) -> None:
        self.calls.append("start")

    def on_finish(self, statistics: Statistics) -> None:
        self.calls.append("finish")
        self.at_the_end = statistics

    async def parse(self, page: Page) -> None:
        page.save({"url": page.url})
        page.update_state(lambda state: state.update(pages=state.get("pages", 0) + 1))
        page.update(lambda: self.tally.pages.update([page.request.host]))
        page.follow("a")


@pytest.fixture
def site(site: Site) -> Site:
    """A tree of 85 pages, each of which takes a moment."""
    numbers = count(1)

    def add(path: str, depth: int) -> None:
        children = [f"/{next(numbers)}" for _ in range(4)] if depth < 3 else []
        site.add_page(path, links=children, delay=0.005)
        for child in children:
            add(child, depth + 1)

    add("/", 0)
    return site


async def crawl(
    fleet: Fleet,
    site: Site,
    workers: int = 3,
    flaky: bool = False,
    shops: list[Shop] | None = None,
    **options: Any,
) -> list[Shop]:
    """Crawl the site with so many workers, which are also put into `shops`."""
    shops = [] if shops is None else shops
    for number in range(workers):
        store = fleet.store(str(number))
        if flaky:
            rng = Random(number)
            fates = (rng.choice(("away", "lost", "answered", "answered")) for _ in count())
            make_flaky(store, fates)
        shop = Shop(start_urls=[site.url("/")], store=store, **options)
        shop.joins = number > 0
        shops.append(shop)
    async with asyncio.timeout(100):
        await asyncio.gather(*(shop.crawl() for shop in shops))
    return shops


async def look(fleet: Fleet) -> Run:
    store = await fleet.worker("reader")
    return Run(store.reader())


async def test_all_pages_are_handled_once_by_whomever(fleet: Fleet, site: Site) -> None:
    shops = await crawl(fleet, site)
    assert [shop.exit_code for shop in shops] == [0, 0, 0]
    run = await look(fleet)
    items = Counter(item["url"] for item in run.items())
    assert len(items) == 85
    assert set(items.values()) == {1}
    assert list(run.check()) == []
    assert run.statistics.requests_finished == run.statistics.by_host[_host(site)].requests_finished
    assert run.statistics.pending == 0
    assert run.statistics.lives == 1
    assert run.state == {"pages": 85}
    assert run.saved("tally") == {_host(site): 85}
    run.close()


def _host(site: Site) -> str:
    return Request(site.url("/")).host


async def test_on_start_is_called_by_each_and_on_finish_by_one(fleet: Fleet, site: Site) -> None:
    shops = await crawl(fleet, site)
    assert sorted(call for shop in shops for call in shop.calls) == ["finish", *["start"] * 3]
    (statistics,) = [shop.at_the_end for shop in shops if shop.at_the_end is not None]
    assert statistics.requests_finished == 85
    assert statistics.by_handler["parse"].requests_finished == 85
    assert statistics.duration_finished.count == 85
    assert statistics.status_codes == {200: 85}
    assert statistics.runtime_seconds > 0


async def test_on_finish_is_called_again_when_the_run_was_gone_on_with(
    fleet: Fleet, site: Site
) -> None:
    """No page of the second life has a link: nothing is enqueued in it."""
    site.add_page("/", links=["/leaf"])
    site.add_page("/leaf")
    for most in (1, None):
        shops = await crawl(fleet, site, max_pages=most)
        assert sum(shop.calls.count("finish") for shop in shops) == 1


async def test_the_end_is_told_when_all_that_was_done_is_saved(fleet: Fleet, site: Site) -> None:
    """Otherwise who dies after that leaves pages behind, and nobody is told of their end."""
    store = fleet.store("one")
    finish, saved = store.finish, []

    async def look_and_finish() -> bool:
        saved.append(len(list(store.reader().items())))
        return await finish()

    store.finish = look_and_finish  # type: ignore[method-assign]
    await Shop(start_urls=[site.url("/")], store=store, persist_interval=3600).crawl()
    assert saved == [85]


async def test_a_value_is_read_as_it_is_saved_whoever_has_saved_it_last(fleet: Fleet) -> None:
    """Also by one that has saved it before, and no checkpoint since."""
    stores = [fleet.store(name) for name in ("one", "two")]
    one, two = (Job(store, persist_interval=3600, signals=False) for store in stores)
    async with one, two:
        await one.set_value("price", 1)
        await one.checkpoint()
        await two.set_value("price", 2)
        await two.checkpoint()
        assert await one.get_value("price") == 2
        await one.set_value("price", 3)
        assert await one.get_value("price") == 3


async def test_every_worker_ends_with_the_plain_numbers_of_the_run(
    fleet: Fleet, site: Site
) -> None:
    for shop in await crawl(fleet, site):
        assert shop.statistics.requests_finished == 85
        assert shop.statistics.items_saved == 85
        assert shop.statistics.pending == 0


async def test_workers_that_retry_the_same_failures_at_the_same_time_retry_each_once(
    fleet: Fleet, site: Site
) -> None:
    may_end = threading.Event()

    async def wait(request: object) -> str:  # in the site's loop, which is another one
        while not may_end.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.02)
        return "<h1>at last</h1>"

    broken = [f"/broken/{number}" for number in range(10)]
    site.add_page("/", links=[*broken, "/wait"])
    site.add_page("/wait", wait)
    for path in broken:
        site.add_page(path, status=404)
    shops: list[Shop] = []
    crawling = asyncio.create_task(crawl(fleet, site, shops=shops, max_retries=0))
    store = await fleet.worker("onlooker")
    async with asyncio.timeout(30):
        while (await store.load()).counters.get("requests_failed", 0) < 10:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)
        for path in broken:
            site.add_page(path)
        counts = await asyncio.gather(*(shop.retry_failed() for shop in shops))
    may_end.set()
    await crawling
    assert sum(counts) == 10
    assert [shop.exit_code for shop in shops] == [0, 0, 0]
    assert [site.hits(path) for path in broken] == [2] * 10
    run = await look(fleet)
    assert [(failed.url, failed.detail) for failed in run.requests("failed")] == []
    assert (run.statistics.requests_finished, run.statistics.requests_failed) == (12, 0)
    assert list(run.check()) == []
    run.close()


def make_flaky(store: Store, fates: Iterator[str]) -> None:
    """Calls of `allot` are not made as the server is `away`, or made and the answer is `lost`.

    What became of such a one is told by the next one that is `answered`.
    """
    real, untold = store.allot, Counter[tuple[str, ...]]()

    async def allot(counters: tuple[str, ...], most: int, wanted: int) -> Allotment:
        fate = next(fates)
        if fate == "away":
            raise StoreWriteError("the server is away")
        answer = await real(counters, most, wanted)
        if fate == "lost":
            untold[counters] += answer.granted
            raise StoreWriteError("the answer got lost")
        return replace(answer, granted=answer.granted + untold.pop(counters, 0))

    store.allot = allot  # type: ignore[method-assign]


async def test_what_is_retried_at_the_end_is_refused_or_done(fleet: Fleet, site: Site) -> None:
    site.add_page("/", links=["/broken"])
    site.add_page("/broken", status=404)
    store = fleet.store("one")
    news = store.news
    refusals: list[str] = []

    async def news_that_end_with_a_retry() -> None:
        try:
            await news()
        except asyncio.CancelledError:
            with pytest.raises(UsageError, match="the crawl is over") as refusal:
                await shop.retry_failed()
            refusals.append(str(refusal.value))
            raise

    store.news = news_that_end_with_a_retry  # type: ignore[method-assign]
    shop = Shop(start_urls=[site.url("/")], store=store, max_retries=0)
    await shop.crawl()
    assert shop.exit_code == 0
    assert len(refusals) == 1
    assert shop.statistics.pending == 0


async def test_what_could_not_be_given_back_is_not_lost(fleet: Fleet) -> None:
    store = await fleet.worker("one")
    clock = Clock()
    queue = RequestQueue(clock, Throttle(clock), worker="one")
    allowance = Allowance(store, queue, Statistics(), 10, 10)
    allowance.begin()
    await allowance.refill()
    assert queue.budget == 10
    honest, other = store.allot, await fleet.worker("two")
    for fates in (["away"], ["lost"], ["away", "lost"], ["lost", "away"], ["lost", "lost"]):
        store.allot = honest  # type: ignore[method-assign]
        make_flaky(store, iter([*fates, "answered"]))
        with pytest.raises(StoreWriteError):
            await allowance.give_back()
        assert queue.budget == 0  # nothing is begun while nobody knows
        for _ in fates:
            with suppress(StoreWriteError):
                await allowance.refill()
        assert queue.budget == 10
        assert (await other.allot(PAGES, 10, 10)).granted == 0
    queue.close()


async def test_max_pages_is_reached_exactly_although_the_store_is_in_trouble(
    fleet: Fleet, site: Site
) -> None:
    shops = await crawl(fleet, site, flaky=True, max_pages=37)
    assert [shop.exit_code for shop in shops] == [0, 0, 0]
    run = await look(fleet)
    assert len({item["url"] for item in run.items()}) == 37
    assert run.statistics.requests_finished == 37
    run.close()


async def test_a_budget_is_used_up_exactly_although_the_store_is_in_trouble(
    fleet: Fleet, site: Site
) -> None:
    shops = await crawl(fleet, site, flaky=True, budgets={"re:/[1-9][0-9]$": 11})
    assert [shop.exit_code for shop in shops] == [0, 0, 0]
    run = await look(fleet)
    assert len([item for item in run.items() if item["url"][-2:].isdigit()]) == 11
    run.close()


@pytest.mark.parametrize("most", [1, 7, 40])
async def test_max_pages_holds_for_all_workers_together(
    fleet: Fleet, site: Site, most: int
) -> None:
    shops = await crawl(fleet, site, max_pages=most)
    assert [shop.exit_code for shop in shops] == [0, 0, 0]
    run = await look(fleet)
    assert run.statistics.requests_finished == most
    assert len(list(run.items())) == most
    run.close()


async def test_the_budget_of_a_pattern_holds_for_all_workers_together(
    fleet: Fleet, site: Site
) -> None:
    await crawl(fleet, site, budgets={"re:/[1-9][0-9]$": 11}, max_retries=0)
    run = await look(fleet)
    paths = [Request(item["url"]).url.rpartition("/")[2] for item in run.items()]
    assert sum(len(path) == 2 for path in paths) == 11
    run.close()


async def test_the_budget_of_a_pattern_with_spaces_holds_for_all_workers_together(
    fleet: Fleet, site: Site
) -> None:
    async with asyncio.timeout(30):
        await crawl(fleet, site, budgets={"re:(?x) / [1-9] [0-9] $": 11})
    run = await look(fleet)
    assert len([item for item in run.items() if item["url"][-2:].isdigit()]) == 11
    run.close()


async def test_the_pages_of_a_host_are_counted_whichever_worker_has_it(
    fleet: Fleet, site: Site
) -> None:
    """It goes to and fro between two checkpoints of a worker, which come when work runs out."""
    await crawl(fleet, site, max_pages_per_host=40, persist_interval=1.0)
    run = await look(fleet)
    assert run.statistics.requests_finished == 40
    run.close()


async def test_a_host_has_no_more_requests_at_once_than_its_limit(fleet: Fleet, site: Site) -> None:
    await crawl(fleet, site, concurrency_per_host=3, persist_interval=0.02)
    assert max(hit.open for hit in site.requests) <= 3


async def test_workers_without_work_take_part_in_the_only_host_there_is(
    fleet: Fleet, site: Site
) -> None:
    """There is more than one worker can claim, and the others get half of the host each."""
    shops: list[Shop] = []
    links = "".join(f"<a href='/page/{number}'></a>" for number in range(400))

    async def home(request: object) -> str:  # in the site's loop, which is another one
        while len(shops) < 2 or not all(shop.calls for shop in shops):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return links

    site.add_page("/", home)
    for number in range(400):
        site.add_page(f"/page/{number}", delay=0.02)
    options: dict[str, Any] = {"concurrency_per_host": 4, "persist_interval": 0.02}
    await crawl(fleet, site, workers=2, shops=shops, **options)
    own = [shop.tally.pages.total() for shop in shops]
    assert sum(own) == 401
    assert min(own) > 40


async def test_a_worker_to_whom_no_news_come_through_sees_the_end_all_the_same(
    fleet: Fleet, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the store itself, now and then, or it would wait for them for ever."""
    monkeypatch.setattr("crawlkit.crawling.feeder.LOOK_AGAIN", 0.2)
    deaf, other = fleet.store("deaf"), fleet.store("other")

    async def silence() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(deaf, "news", silence)
    site.add_page("/", links=["/slow"])
    site.add_page("/slow", delay=1.0)
    busy = Shop(start_urls=[site.url("/")], store=other)
    working = asyncio.create_task(busy.crawl())
    while not busy.queue.in_flight:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    idle = Shop(start_urls=[site.url("/")], store=deaf)
    async with asyncio.timeout(20):
        await asyncio.gather(working, idle.crawl())
    assert (busy.exit_code, idle.exit_code) == (0, 0)


async def test_start_requests_are_taken_once(fleet: Fleet, site: Site) -> None:
    class Many(Shop):
        start_file: str | None = None

        def start_requests(self) -> Iterator[str]:
            yield from (site.url(f"/start/{number}") for number in range(1200))

    for number in range(1200):
        site.add_page(f"/start/{number}")
    stores = [fleet.store(str(number)) for number in range(2)]
    shops = [Many(store=store, max_pages=5) for store in stores]
    await asyncio.gather(*(shop.crawl() for shop in shops))
    run = await look(fleet)
    assert run.statistics.requests_total == 1200
    assert run.statistics.requests_duplicate == 0
    run.close()


@pytest.mark.parametrize("is_busy", [False, True])
async def test_no_start_request_is_passed_over_whoever_dies_while_they_are_taken(
    fleet: Fleet, is_busy: bool
) -> None:
    """One dies after some, and the other, who was there from the beginning, after a few more.

    Where that one is busy, it has just met a robots.txt that names a sitemap.
    """
    urls = [f"https://shop.example/{number}" for number in range(100)]

    async def take(start: StartRequests, count: int) -> list[int]:
        taken = start.take(urls)
        return [(await anext(taken))[0] for _ in range(count)]

    async def begin(name: str) -> tuple[Store, Job, StartRequests]:
        job = Job(fleet.store(name), persist_interval=3600, signals=False)
        start = job.persist("start", StartRequests())
        await job.open(signals=False)
        return job.store, job, start

    (first, one, earlier), (second, two, later) = await begin("one"), await begin("two")
    await take(earlier, 50)
    await one.checkpoint()
    await fleet.die(first)
    if is_busy:
        later.take_urls(["https://shop.example/sitemap.xml"])
    later.resume(await second.document("start"))
    assert await take(later, 3) == [51, 52, 53]
    await two.checkpoint()
    await fleet.die(second)
    store, three, last = await begin("three")
    last.resume(await store.document("start"))
    places = [place async for place, _ in last.take(urls)]
    assert places == list(range(54, 101))
    for job in (one, two, three):
        with suppress(StoreFencedError):
            await job.close(finished=False)


async def test_a_hosts_delay_holds_whoever_asks_it(fleet: Fleet, site: Site) -> None:
    stores = [fleet.store(str(number)) for number in range(2)]
    options: dict[str, Any] = {"start_urls": [site.url("/")], "delay": 0.1, "max_pages": 8}
    starts: list[Stopwatch] = []

    class Timed(Shop):
        def on_start(self) -> None:
            starts.append(Stopwatch())

    shops = [Timed(store=store, **options) for store in stores]
    await asyncio.gather(*(shop.crawl() for shop in shops))
    times = [hit.at for hit in site.requests]
    assert len(times) == 8
    assert_apart(times, 0.1, starts[0])


async def test_a_fenced_worker_stops_at_once_and_the_others_do_its_work(
    fleet: Fleet, site: Site
) -> None:
    stores = [fleet.store(str(number)) for number in range(2)]
    shops = [Shop(start_urls=[site.url("/")], store=store) for store in stores]
    running = [asyncio.create_task(shop.crawl()) for shop in shops]
    while not any(shop.statistics.requests_finished > 4 for shop in shops):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await fleet.silence(stores[0])
    with pytest.raises(StoreFencedError):
        await asyncio.wait_for(running[0], 30)
    assert StoreFencedError.exit_code == 75
    await asyncio.wait_for(running[1], 30)
    run = await look(fleet)
    assert sorted(Counter(item["url"] for item in run.items()).values()) == [1] * 85
    assert list(run.check()) == []
    run.close()


@pytest.mark.timeout(30)
async def test_a_worker_that_is_told_to_stop_while_nobody_hears_of_it_stops(
    fleet: Fleet, site: Site
) -> None:
    class Frozen(Shop):
        concurrency = 1

        async def parse(self, page: Page) -> None:
            page.follow("a")
            if page.request.depth:
                # As in a process that was stopped for longer than its lease, and is told then.
                self.job.store.heard = -inf
                self.job.stop()

    shop = Frozen(start_urls=[site.url("/")], store=fleet.store("0"))
    await shop.crawl()
    assert shop.exit_code == 75
    run = await look(fleet)
    assert run.statistics.pending > 1
    run.close()


async def test_what_a_part_of_the_users_cannot_absorb_is_committed_all_the_same(
    fleet: Fleet,
) -> None:
    class Stubborn(Tally):
        def absorb(self, handed: Any, merged: Any, key: str) -> None:
            raise ValueError("this part does not like to be told")

    jobs = [Job(fleet.store(name), signals=False, persist_interval=60) for name in ("one", "two")]
    tallies = [job.persist("tally", Stubborn()) for job in jobs]
    committed: list[Receipt] = []
    jobs[1].on_commit(lambda checkpoint, receipt: committed.append(receipt))
    for job, tally in zip(jobs, tallies, strict=True):
        await job.open(signals=False)
        tally.pages["page"] += 1
    await jobs[0].checkpoint()
    with pytest.raises(ValueError, match="does not like to be told"):
        await jobs[1].checkpoint()
    assert len(committed) == 1
    for job in jobs:
        with suppress(ValueError):
            await job.close(finished=False)


async def test_the_time_for_which_a_hub_was_stopped_is_not_held_against_its_workers() -> None:
    """A machine that was frozen goes on: the hub may be faster to look than a worker to speak."""
    now = 0.0
    hub = Hub(MemoryStore(), lease=5.0, monotonic=lambda: now)
    await hub.open()
    await Seats(hub).worker("one")
    now = 14.0
    assert await hub.store.do(hub.reap, 10.0) == []
    now = 16.0
    assert await hub.store.do(hub.reap) == ["one"]
    await hub.close()


async def test_what_is_in_flight_anywhere_is_in_flight_of_the_run() -> None:
    hub = Hub(MemoryStore())
    await hub.open()
    fleet = Seats(hub)
    one, two = [await fleet.worker(name) for name in ("one", "two")]
    for store in (one, two):
        checkpoint = Checkpoint(at=1.0)
        with checkpoint.of("queue"):
            number = 1 if store is one else 2
            checkpoint.save([["a.example", number]], key=f"in_flight/{store.worker}")
        await store.commit(checkpoint)
    assert (await hub.status()).in_flight == 2
    await fleet.die(one)
    assert (await hub.status()).in_flight == 1
    await hub.close()
