"""What pages in the browser load from their hosts keeps to what the hosts ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from crawlkit.crawling.gate import HostPaused
from crawlkit.crawling.resources import Resources
from crawlkit.politeness.robotstext import parse
from crawlkit.politeness.rules import Rules
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import RequestQueue
from crawlkit.rendering import loading
from crawlkit.rendering.loading import Loading
from crawlkit.testing import ManualClock

HOST = "site.test"
URL = f"https://{HOST}/api"


class Known:
    """A robots.txt that is at hand."""

    def peek(self, url: str) -> Rules:
        return Rules(parse(b"User-agent: *\nDisallow: /api", "crawlkit", url))


class Host:
    """A host with so many slots, one of which a page has."""

    def __init__(self, slots: int = 2, *, robots: Known | None = None) -> None:
        self.clock = ManualClock()
        self.throttle = Throttle(self.clock, concurrency_per_host=slots)
        self.throttle.started(HOST)
        queue = RequestQueue(self.clock, self.throttle)
        self.resources = Resources(self.clock, self.throttle, queue, robots)  # type: ignore[arg-type]

    def page(self) -> Loading:
        return Loading(self.resources)

    @property
    def in_flight(self) -> int:
        return self.throttle._hosts[HOST].in_flight


async def begun(page: Loading, *names: str) -> list[str]:
    """What has begun of these, after a while."""
    tasks = {name: asyncio.create_task(page.begin(name, HOST, URL)) for name in names}
    await asyncio.sleep(0.08)
    return [name for name, task in tasks.items() if task.done()]


async def test_a_page_loads_one_thing_through_its_own_slot_and_more_through_free_ones() -> None:
    host = Host(slots=3)
    page = host.page()
    assert await begun(page, "a", "b", "c", "d") == ["a", "b", "c"]
    assert host.in_flight == 3
    assert page.is_waiting
    page.ended("b")
    await asyncio.sleep(0.08)
    assert not page.is_waiting
    page.close()
    assert host.in_flight == 1


async def test_pages_that_hold_all_slots_do_not_wait_for_each_other() -> None:
    host = Host(slots=2)
    host.throttle.started(HOST)
    first, second = host.page(), host.page()
    assert await begun(first, "a", "b") == ["a"]
    assert await begun(second, "c", "d") == ["c"]
    for page, name in ((first, "a"), (second, "c")):
        page.ended(name)
        await asyncio.sleep(0.08)
        assert not page.is_waiting


async def test_a_redirect_of_a_resource_needs_no_other_slot() -> None:
    page = Host(slots=1).page()
    assert await begun(page, "a") == ["a"]
    assert await begun(page, "a") == ["a"]


async def test_a_stream_without_end_does_not_hold_the_rest_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "HELD", 0.05)
    page = Host(slots=1).page()
    assert await begun(page, "stream", "rest") == ["stream", "rest"]


async def test_who_is_cancelled_while_waiting_leaves_nothing_taken() -> None:
    host = Host(slots=1)
    page = host.page()
    await page.begin("a", HOST, URL)
    task = asyncio.create_task(page.begin("b", HOST, URL))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    page.close()
    assert (host.in_flight, page.is_waiting) == (1, False)


async def test_what_robots_txt_forbids_is_not_loaded_where_it_is_asked() -> None:
    refused = await Host(robots=Known()).page().begin("a", HOST, URL)
    assert "/api" in str(refused)
    assert await Host(robots=Known()).page().begin("a", HOST, f"https://{HOST}/x") is None
    assert await Host().page().begin("a", HOST, URL) is None


@pytest.mark.parametrize(
    ("status", "headers", "pauses"),
    [
        (429, {}, True),
        (429, {"Retry-After": "30"}, True),
        (503, {"Retry-After": "30"}, True),
        (503, {}, False),
        (500, {"Retry-After": "30"}, False),
        (200, {}, False),
    ],
)
async def test_a_host_that_asks_a_page_to_slow_down_is_left_alone_by_the_others(
    status: int, headers: Mapping[str, str], pauses: bool
) -> None:
    host = Host(slots=4)
    page, other = host.page(), host.page()
    await page.begin("a", HOST, URL)
    page.answered("a", status, headers)
    assert (host.throttle.ready_at(HOST) > host.clock.now()) == pauses
    # The page itself has begun; to do all of it again would be more.
    assert await page.begin("b", HOST, URL) is None
    if pauses and headers:
        with pytest.raises(HostPaused):
            await other.begin("c", HOST, URL)
    elif not pauses:
        assert await other.begin("c", HOST, URL) is None


async def test_a_short_pause_is_waited_for() -> None:
    host = Host()
    host.throttle.pause(HOST, 0.05)
    task = asyncio.create_task(host.page().begin("a", HOST, URL))
    await asyncio.sleep(0.02)
    assert not task.done()
    host.clock.advance(1)
    assert await asyncio.wait_for(task, 30) is None
