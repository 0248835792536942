"""Seeds: what a crawl begins with, on its way into the queue.

Start URLs, a generator of start requests and sitemaps have one thing in common: there may be ten
million of them. So they are enqueued a few hundred at a time, each time with a checkpoint, and the
place in the sequence is in the same checkpoint as the requests that lie before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from ..errors import UrlError, one_line
from ..page import Page
from ..queue import RequestQueue
from ..request import Request
from ..statistics import Statistics
from ..stores.base import Store
from .sitemapplaces import SitemapPlaces
from .sitemaps import MAX_LEVELS, MAX_SITEMAPS, Entry
from .start import StartRequests, StartSource, as_request, start_source

log = logging.getLogger("crawlkit.seeds")

LOCK = "seeds"
"""The lock of the worker that sows."""
LOOK_AGAIN = 0.5
"""Seconds between two looks at whether another worker has done so."""
AT_ONCE = 500
"""Start requests after which a checkpoint is taken."""
SITEMAP = "parse_sitemap"
"""The handler of sitemaps."""
# Of a sitemap's request: how many sitemaps led to it, and how many others may hang below it.
_LEVEL, _LEFT = "sitemap_level", "sitemaps_left"


class Seeds:
    """Enqueues what a crawl begins with.

    Args:
        start: Which start requests were taken: a persisted part.
        sitemaps: How far sitemaps were taken: a persisted part.
        queue: Where requests go.
        statistics: Where those that are left out are counted.
        checkpoint: Takes a checkpoint, and comes back once one was taken.
        store: Where other workers may have come further with it.
        patiently: Asks the store again while it is in trouble.
        max_sitemaps: How many sitemaps one index leads to, on all levels together.
    """

    def __init__(
        self,
        start: StartRequests,
        sitemaps: SitemapPlaces,
        queue: RequestQueue,
        statistics: Statistics,
        checkpoint: Callable[[], Awaitable[None]],
        store: Store,
        *,
        patiently: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]] = lambda ask: ask(),
        max_sitemaps: int = MAX_SITEMAPS,
    ) -> None:
        self._start = start
        self._sitemaps = sitemaps
        self._queue = queue
        self._statistics = statistics
        self._checkpoint = checkpoint
        self._store = store
        self._patiently = patiently
        self._max_sitemaps = max_sitemaps

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """While the block runs, no other worker sows; what others have sown is known in it.

        Comes to its end when what was sown in it is saved. A worker that dies within loses its
        turn, and the next goes on at the place.
        """
        if not self._store.is_shared:
            yield
            return
        store = self._store
        while not await self._patiently(lambda: store.try_lock(LOCK)):  # noqa: ASYNC110 - not ours
            await asyncio.sleep(LOOK_AGAIN)
        self._start.resume(await self._patiently(lambda: store.document("start")))
        yield
        await self._checkpoint()
        await self._patiently(lambda: store.unlock(LOCK))

    def sow_sitemaps(self, urls: Iterable[str]) -> None:
        """Enqueue sitemaps that were not enqueued before.

        Raises:
            UrlError: One of them is no URL.
        """
        for request in self._start.take_urls(urls):
            self._queue.add(request.replace(handler=SITEMAP))

    def sow_named_sitemaps(self, urls: Iterable[str], start: Request) -> None:
        """Enqueue the sitemaps that the robots.txt of a start request's host names.

        Only those on the same host may be where the start request may be: at a private address.
        """
        for request in self._start.take_urls(urls):
            is_private = start.private and request.host == start.host
            self._queue.add(request.replace(handler=SITEMAP, depth=1, private=is_private))

    async def sow(self, urls: Iterable[str], file: str | None, requests: StartSource) -> None:
        """Enqueue the start requests that were not enqueued in an earlier life.

        Raises:
            UsageError: One of them is neither a URL nor a request.
        """
        for request in self._start.take_urls(urls):
            self._queue.add(request)
        if self._start.is_done:
            return
        async for place, given in self._start.take(start_source(file, requests)):
            if isinstance(given, UrlError):
                log.warning("%s; it is left out", one_line(given))
                self._statistics.skipped("malformed")
            else:
                self._queue.add(given)
            if place % AT_ONCE == 0:
                await self._checkpoint()

    async def read_sitemap(
        self,
        page: Page,
        request_of: Callable[[Entry], Request | str | None],
        enqueue: Callable[[list[str], Request, Page], None],
    ) -> None:
        """Enqueue what a sitemap lists.

        Args:
            page: The sitemap.
            request_of: What to enqueue for a page that is listed, if anything.
            enqueue: Enqueues requests that are like one but for their URLs, or says why not.

        Raises:
            PageTypeError: It is no sitemap, or breaks off. What could be read is enqueued.
            LimitError: It is too large. Likewise.
        """
        url, depth = page.request.url, page.request.depth + 1
        level = page.request.user_data.get(_LEVEL, 0) + 1
        private = page.response.is_private
        room = share = None
        async for entries in self._sitemaps.entries(url, page.response):
            if room is None and any(entry.kind == "sitemap" for entry in entries):
                room, share = await self._shares(page)
            # From here to the checkpoint there is no await: the place and the requests agree.
            for entry in entries:
                if entry.kind == "sitemap":
                    if level > MAX_LEVELS:
                        self._statistics.skipped("max_depth")
                        continue
                    if not room:
                        self._statistics.skipped("max_sitemaps")
                        continue
                    room -= 1
                    given: Request | str | None = Request(
                        entry.url, handler=SITEMAP, user_data={_LEVEL: level, _LEFT: share}
                    )
                else:
                    given = request_of(entry)
                if given is not None:
                    request = as_request(given).replace(depth=depth, private=private)
                    enqueue([request.url], request, page)
            self._sitemaps.advance(url, entries)
            await self._checkpoint()
        self._sitemaps.done(url)

    async def _shares(self, page: Page) -> tuple[int, int]:
        """How many more of the sitemaps that an index lists are read, and how many below each.

        What a sitemap may lead to is divided among those that it lists, so that indexes of indexes
        come to an end although nobody counts them all: 10 levels of a thousand would not.
        """
        request = page.request
        left = request.user_data.get(_LEFT, self._max_sitemaps)
        listed, taken = await self._sitemaps.count_sitemaps(request.url, page.response)
        return max(left - taken, 0), max(left - listed, 0) // max(listed, 1)

    def give_up(self, url: str) -> None:
        """Forget how far a sitemap was taken: it will not be read on."""
        self._sitemaps.done(url)
