"""Sitemaps that list one another without end are read to an end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from crawlkit.clock import Clock
from crawlkit.discovery.seeds import SITEMAP, Seeds
from crawlkit.discovery.sitemapplaces import SitemapPlaces
from crawlkit.discovery.sitemaps import MAX_LEVELS
from crawlkit.discovery.start import StartRequests
from crawlkit.page import Page
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import RequestQueue
from crawlkit.request import Request
from crawlkit.response import Response
from crawlkit.sessions import Session
from crawlkit.statistics import Statistics
from crawlkit.stores.memory import MemoryStore

ROOT = "https://shop.example/sitemap.xml"


class Reading:
    """Reads sitemaps, and those that they list, until nothing is left."""

    def __init__(self, listed: Callable[[str], list[str]], *, at_most: int) -> None:
        clock = Clock()
        self.listed = listed
        self.places = SitemapPlaces()
        self.statistics = Statistics()
        self.seeds = Seeds(
            StartRequests(),
            self.places,
            RequestQueue(clock, Throttle(clock)),
            self.statistics,
            self.checkpoint,
            MemoryStore(),
            max_sitemaps=at_most,
        )
        self.waiting = deque([Request(ROOT, handler=SITEMAP)])
        self.read: list[str] = []
        self.checkpoints_left = -1

    async def checkpoint(self) -> None:
        self.checkpoints_left -= 1
        if self.checkpoints_left == 0:
            raise InterruptedError

    async def step(self) -> None:
        request = self.waiting[0]
        entries = "".join(f"<sitemap><loc>{u}</loc></sitemap>" for u in self.listed(request.url))
        body = f"<sitemapindex>{entries}</sitemapindex>".encode()
        page = Page(request, Response(url=request.url, body=body), Session("s", Clock()))
        await self.seeds.read_sitemap(page, lambda entry: entry.url, self.enqueue)
        self.read.append(self.waiting.popleft().url)

    def enqueue(self, urls: list[str], like: Request, page: Page) -> None:
        self.waiting.extend(like.replace(url=url) for url in urls)

    async def to_the_end(self) -> None:
        while self.waiting:
            await self.step()

    @property
    def left_out(self) -> int:
        return self.statistics.skipped_by_reason.get("max_sitemaps", 0)


def several(count: int) -> Callable[[str], list[str]]:
    """Each sitemap lists `count` new ones."""
    return lambda url: [f"{url}/{number}" for number in range(count)]


async def test_how_far_from_the_start_a_sitemap_was_found_takes_nothing_from_it() -> None:
    reading = Reading(several(1), at_most=100)
    reading.waiting[0] = reading.waiting[0].replace(depth=50)
    await reading.to_the_end()
    assert len(reading.read) == 1 + MAX_LEVELS


@pytest.mark.parametrize("count", [1, 3, 70])
async def test_indexes_of_indexes_come_to_an_end(count: int) -> None:
    reading = Reading(several(count), at_most=100)
    await reading.to_the_end()
    assert 1 + min(count, MAX_LEVELS) <= len(reading.read) <= 1 + 100
    assert (reading.left_out > 0) == (count > 1)


async def test_an_index_that_lists_as_many_sitemaps_as_are_allowed_loses_none() -> None:
    reading = Reading(lambda url: several(1000)(url) if url == ROOT else [], at_most=1000)
    await reading.to_the_end()
    assert len(reading.read) == 1 + 1000
    assert reading.left_out == 0


async def test_what_is_over_the_limit_is_left_out_and_counted() -> None:
    reading = Reading(lambda url: several(1300)(url) if url == ROOT else [], at_most=1000)
    await reading.to_the_end()
    assert reading.read[1:] == several(1300)(ROOT)[:1000]
    assert reading.left_out == 300


async def test_an_index_that_is_read_on_leads_to_no_more_than_one_that_is_read_at_once() -> None:
    reading = Reading(lambda url: several(1300)(url) if url == ROOT else [], at_most=1000)
    reading.checkpoints_left = 1
    with pytest.raises(InterruptedError):
        await reading.step()
    assert len(reading.waiting) == 1 + 500
    await reading.to_the_end()
    assert reading.read[1:] == several(1300)(ROOT)[:1000]
    assert reading.left_out == 300
