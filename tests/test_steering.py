"""A crawl that goes on can be paused, widened, and told to try its failures again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crawlkit import Crawler, Page, open_run
from crawlkit.checkpoint import Checkpoint, Outcome
from crawlkit.errors import OptionError, StoreWriteError, UsageError
from crawlkit.failures import Which, pending_again
from crawlkit.stores.base import Receipt
from crawlkit.testing import Site


class Pages(Crawler):
    concurrency = 2
    concurrency_per_host = 100
    persist_interval = 0.05
    max_retries = 0
    obey_robots = False

    async def parse(self, page: Page) -> None:
        page.save({"url": page.url})
        page.follow("a")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


@asynccontextmanager
async def crawling(crawler: Crawler) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.create_task(crawler.crawl())
    try:
        yield task
    finally:
        if not task.done():
            crawler.job.stop(0.0)
        await asyncio.wait({task}, timeout=30)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


# -- pause ----------------------------------------------------------------------------------------


async def test_a_paused_crawl_begins_nothing_and_goes_on_to_its_end(site: Site) -> None:
    paths = [f"/{number}" for number in range(40)]
    site.add_page("/", links=paths)
    for path in paths:
        site.add_page(path, delay=0.01)
    crawler = Pages(start_urls=[site.url("/")], store="memory:")
    async with crawling(crawler) as task:
        await until(lambda: site.hits() > 5)
        crawler.pause()
        assert crawler.is_paused
        await until(lambda: not crawler.queue.in_flight)
        hits = site.hits()
        assert hits < 41
        await asyncio.sleep(0.2)
        assert site.hits() == hits
        crawler.resume()
        assert not crawler.is_paused
        statistics = await task
    assert statistics.requests_finished == 41
    assert crawler.exit_code == 0


async def test_a_crawl_that_is_paused_can_be_stopped_and_is_not_paused_when_it_goes_on(
    site: Site, tmp_path: Path
) -> None:
    site.add_page("/", links=["/a"])
    site.add_page("/a")
    crawler = Pages(start_urls=[site.url("/")], store=tmp_path / "run")
    crawler.pause()
    async with crawling(crawler) as task:
        await until(lambda: crawler.statistics.requests_total)
        await crawler.job.abort()
        async with asyncio.timeout(30):
            await task
    assert crawler.exit_code == 75
    assert site.hits() == 0
    again = Pages(start_urls=[site.url("/")], store=tmp_path / "run")
    await again.crawl()
    assert again.statistics.requests_finished == 2


async def test_a_pause_ends_the_rest_of_a_host_too(site: Site) -> None:
    """A timer that came while the crawl was paused is not missed."""
    site.add_page("/", links=["/a"])
    site.add_page("/a")
    crawler = Pages(start_urls=[site.url("/")], store="memory:", delay=0.2)
    async with crawling(crawler) as task:
        await until(lambda: crawler.statistics.requests_finished)
        crawler.pause()
        await asyncio.sleep(0.4)
        crawler.resume()
        async with asyncio.timeout(30):
            await task
    assert crawler.statistics.requests_finished == 2


# -- concurrency ----------------------------------------------------------------------------------


async def test_concurrency_can_be_raised_and_lowered_while_the_crawl_goes_on(site: Site) -> None:
    paths = [f"/{number}" for number in range(400)]
    site.add_page("/", links=paths)
    for path in paths:
        site.add_page(path, delay=0.5)
    crawler = Pages(start_urls=[site.url("/")], store="memory:")
    async with crawling(crawler):
        await until(lambda: site.open == 2)
        crawler.set_concurrency(20)
        await until(lambda: site.open == 20)
        crawler.set_concurrency(3)
        await until(lambda: site.open == 3)
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert site.open <= 3
        assert crawler.concurrency == 3


async def test_a_concurrency_of_none_is_refused(site: Site) -> None:
    with pytest.raises(OptionError, match="concurrency cannot be 0"):
        Pages(store="memory:").set_concurrency(0)


async def test_a_concurrency_that_is_set_before_the_start_holds(site: Site) -> None:
    paths = [f"/{number}" for number in range(30)]
    site.add_page("/", links=paths)
    for path in paths:
        site.add_page(path, delay=0.5)
    crawler = Pages(start_urls=[site.url("/")], store="memory:")
    crawler.set_concurrency(8)
    async with crawling(crawler):
        await until(lambda: site.open == 8)


# -- failures -------------------------------------------------------------------------------------


def add_failing(site: Site, *, broken: int = 5) -> asyncio.Event:
    """Pages that are broken, one that is gone, and one that waits for the event."""
    answered = asyncio.Event()

    async def slow(request: object) -> str:
        await answered.wait()
        return "<h1>slow</h1>"

    paths = [f"/broken/{number}" for number in range(broken)]
    site.add_page("/", links=[*paths, "/gone", "/slow"])
    for path in paths:
        site.add_page(path, status=500)
    site.add_page("/gone", status=404)
    site.add_page("/slow", slow)
    return answered


def mend(site: Site, *, broken: int = 5) -> None:
    for number in range(broken):
        site.add_page(f"/broken/{number}")


def group_of(crawler: Crawler, text: str) -> str:
    (found,) = [group.id for group in crawler.statistics.errors if text in group.message]
    return found


async def test_a_group_of_failures_is_tried_again_while_the_crawl_goes_on(
    site: Site, tmp_path: Path
) -> None:
    slow = add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store=tmp_path / "run", concurrency=4)
    async with crawling(crawler) as task:
        await until(lambda: crawler.statistics.requests_failed == 6)
        mend(site)
        # Whoever asks twice at once gets it done once.
        group = group_of(crawler, "500")
        counts = await asyncio.gather(*(crawler.retry_failed(group=group) for _ in range(3)))
        assert sorted(counts) == [0, 0, 5]
        slow.set()
        await task
    assert (crawler.statistics.requests_finished, crawler.statistics.requests_failed) == (7, 1)
    assert [site.hits(f"/broken/{number}") for number in range(5)] == [2] * 5
    assert site.hits("/gone") == 1
    with open_run(tmp_path / "run") as run:
        assert list(run.check()) == []
        assert [failure.status for failure in run.requests("failed")] == [404]
        assert run.statistics.finished_at
        assert run.statistics.pending == 0
    with pytest.raises(UsageError, match="the crawl is over"):
        await crawler.retry_failed()


async def test_failures_of_a_life_whose_clock_was_ahead_are_tried_again(
    site: Site, tmp_path: Path
) -> None:
    slow = add_failing(site)
    ahead = Pages(start_urls=[site.url("/")], store=tmp_path / "run", concurrency=4)
    ahead.clock._offset += 86_400
    async with crawling(ahead) as task:
        await until(lambda: ahead.statistics.requests_failed == 6)
        ahead.job.stop(0)
        await task
    mend(site)
    crawler = Pages(start_urls=[site.url("/")], store=tmp_path / "run", concurrency=4)
    async with crawling(crawler) as task:
        await until(lambda: bool(crawler.queue.in_flight))
        assert await crawler.retry_failed(error="StatusError") == 6
        slow.set()
        await task
    assert (crawler.statistics.requests_finished, crawler.statistics.requests_failed) == (7, 1)


async def test_failures_are_picked_by_host_handler_kind_and_url(site: Site) -> None:
    add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store="memory:", concurrency=4)
    async with crawling(crawler):
        await until(lambda: crawler.statistics.requests_failed == 6)
        crawler.pause()
        assert await crawler.retry_failed(host="elsewhere.example") == 0
        assert await crawler.retry_failed(handler="parse_other") == 0
        assert await crawler.retry_failed(error="ValueError") == 0
        assert await crawler.retry_failed(url=site.url("/gone")) == 1
        assert await crawler.retry_failed(error="StatusError", handler="parse") == 5
        assert crawler.statistics.requests_failed == 0
        with pytest.raises(UsageError, match="no group of errors 'none'"):
            await crawler.retry_failed(group="none")


async def test_what_is_tried_again_does_not_use_up_max_pages_twice(site: Site) -> None:
    slow = add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store="memory:", concurrency=4, max_pages=8)
    async with crawling(crawler) as task:
        await until(lambda: crawler.statistics.requests_failed == 6)
        mend(site)
        assert await crawler.retry_failed(error="StatusError") == 6
        slow.set()
        await task
    assert (crawler.statistics.requests_finished, crawler.statistics.requests_failed) == (7, 1)


async def test_a_retry_is_not_done_if_the_process_dies_before_its_checkpoint_and_once_after(
    site: Site, tmp_path: Path
) -> None:
    slow = add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store=tmp_path / "run", concurrency=4)
    commit = crawler.job.store.commit
    asked: list[Checkpoint] = []

    async def watched(checkpoint: Checkpoint) -> Receipt:
        if not checkpoint.forget:
            return await commit(checkpoint)
        asked.append(checkpoint)
        leave_behind(tmp_path / "before")
        receipt = await commit(checkpoint)
        leave_behind(tmp_path / "after")
        return receipt

    def leave_behind(to: Path) -> None:
        # What is on the disk when the process is killed now.
        shutil.copytree(tmp_path / "run", to, ignore=shutil.ignore_patterns("*-shm"))

    crawler.job.store.commit = watched  # type: ignore[method-assign]
    async with crawling(crawler):
        await until(lambda: crawler.statistics.requests_failed == 6)
        crawler.pause()
        assert await crawler.retry_failed(group=group_of(crawler, "500")) == 5
    (checkpoint,) = asked
    assert len(checkpoint.again) == len(checkpoint.forget) == 5
    mend(site)
    slow.set()
    for name, failed, handled in (("before", 6, 2), ("after", 1, 7)):
        site.forget()
        with open_run(tmp_path / name) as run:
            assert list(run.check()) == []
            assert len(list(run.requests("failed"))) == failed
        again = Pages(start_urls=[site.url("/")], store=tmp_path / name)
        await again.crawl()
        assert again.statistics.requests_finished == handled
        assert again.statistics.requests_failed == failed
        hits = [site.hits(f"/broken/{number}") for number in range(5)]
        assert hits == [int(name == "after")] * 5
        with open_run(tmp_path / name) as run:
            assert list(run.check()) == []


async def test_a_retry_that_cannot_be_written_yet_comes_with_a_later_checkpoint_once(
    site: Site, tmp_path: Path
) -> None:
    slow = add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store=tmp_path / "run", concurrency=4)
    commit = crawler.job.store.commit
    troubles = 2

    async def failing(checkpoint: Checkpoint) -> Receipt:
        nonlocal troubles
        if checkpoint.forget and troubles:
            troubles -= 1
            raise StoreWriteError("the disk is full")
        return await commit(checkpoint)

    crawler.job.store.commit = failing  # type: ignore[method-assign]
    async with crawling(crawler) as task:
        await until(lambda: crawler.statistics.requests_failed == 6)
        mend(site)
        with pytest.raises(StoreWriteError):
            await crawler.retry_failed(group=group_of(crawler, "500"))
        slow.set()
        await task
    assert [site.hits(f"/broken/{number}") for number in range(5)] == [2] * 5
    with open_run(tmp_path / "run") as run:
        assert list(run.check()) == []


# -- which ----------------------------------------------------------------------------------------


def failure(detail: str, kind: str = "StatusError", status: int | None = None) -> Outcome:
    return Outcome(
        "failed", "https://a.example/", 1, "a.example", 0.0, "parse", status, None, 0, kind, detail
    )


def test_a_failure_is_told_by_its_group() -> None:
    which = Which(error="StatusError", group="0123abcd")
    assert which.fits(failure("answered 404 [0123abcd]"))
    assert not which.fits(failure("answered 404 [0123abce]"))


def test_a_failure_whose_request_was_not_kept_is_tried_as_it_was() -> None:
    again = pending_again(failure("gone"))
    assert (again.request.url, again.request.handler) == ("https://a.example/", "parse")
