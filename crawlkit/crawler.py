"""Crawler: what you subclass, and the path of a request through it.

Read it from the middle: `_worker` claims a request and has it processed; `_process` fetches it,
calls its handler and applies what the handler asked for. Everything that a page does becomes
visible in `_apply`, in one step, and durable in the next checkpoint. Around that, `crawl` opens and
closes the job, and the feeder brings requests from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from inspect import isasyncgenfunction, iscoroutine, isgeneratorfunction
from time import perf_counter
from typing import Any, TypeVar

from .checkpoint import Checkpoint, Lease, Saved
from .clock import Clock
from .crawling.feeder import STORE_REST
from .crawling.gate import HostPaused
from .crawling.parts import Parts, job_of
from .discovery.seeds import SITEMAP
from .errors import FetchError, MissingError, StoreError, UsageError
from .events import CrawlerStatus, RequestHandled, SystemInfo
from .fetching import Fetcher
from .hooks import Hooks, check_hooks, no_handler, yielding
from .items import ItemType
from .observing.notebook import show
from .options import Options
from .page import Page, handler_name
from .request import Request, copied, host_of
from .response import Response
from .runner import run
from .running.blocking import Watch
from .sessions import Session
from .statistics import Statistics
from .steering import Steering
from .stores.base import Receipt
from .triggers.lastmoment import EXIT_UNFINISHED

log = logging.getLogger("crawlkit.crawler")

T = TypeVar("T")

MANY_LINKS = 1000
"""Links of a page from which on others go first between finding and enqueuing them: 3 ms each."""


class Crawler(Steering, Hooks, Options):
    """A crawl that cannot be lost. Subclass it, and write a handler for each kind of page.

        class Shop(Crawler):
            start_urls = ["https://shop.example/"]

            async def parse(self, page: Page) -> None:
                page.follow("article h3 a", handler=self.parse_product)

            async def parse_product(self, page: Page) -> None:
                page.save({"title": page.css("h1::text").get()})

    Handlers are methods, plain or async, and saved by name. What a handler asks for (`page.follow`,
    `page.save`, `page.update_state`) happens when it has succeeded, all of it or nothing.

    Keywords override the options that are class attributes; see `Options` for all of them.

    Attributes:
        job: The life of this run: events, checkpoints, state.
        queue: What is still to do.
        statistics: What was done, over all lives.
        sessions: The identities under which sites see the crawler.
        throttle: How fast each host is asked.
        robots: What each host asks crawlers to leave alone.
        page_cache: Responses that are kept, so that they are not fetched again.
        fetcher: What turns requests into responses; replace it in `__init__` for another client.
        late_output: The file of items that is made when the crawl has ended, if one is wanted.
        is_output_written: Whether the file `output` holds all items that are saved.
        exit_code: What the process should end with: 0 finished, 75 stopped before the end.
        joins: Whether this process takes part in a life of the run that another one has begun.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        check_hooks(self)
        self.clock = Clock()
        self.job = job_of(self, self.clock)
        self._parts = parts = Parts(self, self, self.job, fetch_robots=self._fetch_robots)
        self.statistics = parts.statistics
        self.queue = parts.queue
        self.throttle = parts.throttle
        self.sessions = parts.sessions
        self.robots = parts.robots
        self.page_cache = parts.page_cache
        self.fetcher: Fetcher = parts.fetcher
        self.exit_code = 0
        self.late_output = parts.late_output
        self.is_output_written = self.output is not None and self.late_output is None
        self._gate, self._judge, self._seeds = parts.gate, parts.judge, parts.seeds
        self._following, self._endings = parts.following, parts.endings
        self._item_type = None if self.item_type is None else ItemType(self.item_type)
        self._handlers: dict[str, Callable[[Page], Any]] = {}
        self._workers: asyncio.TaskGroup | None = None
        self._hired = 0
        self._preparing = asyncio.Lock()  # large trees take memory: one at a time
        self.joins = False
        self.job.on_commit(self._on_commit)
        self.job.on("persistState", self._on_persist_state)
        self.job.on("systemInfo", self._on_system_info)

    # -- for users ----------------------------------------------------------------------------

    def run(self, *, fresh: bool = False) -> int:
        """Run the crawl in an event loop of its own; the exit code.

        Args:
            fresh: Throw away what the run holds, and start anew.

        Raises:
            CrawlkitError: The crawl could not be begun, or could not go on.
        """
        return run(self, fresh=fresh)

    async def crawl(self, *, fresh: bool = False, signals: bool = False) -> Statistics:
        """Run the crawl inside the loop that is running: in a notebook, a web server, a test.

        In a notebook a display shows where it stands. A crawler crawls once: to go on with a run,
        make another one.

        Args:
            fresh: Throw away what the run holds, and start anew.
            signals: Whether SIGTERM and Ctrl-C stop the crawl.

        Raises:
            UsageError: This crawler has crawled already.
            CrawlkitError: The crawl could not be begun, or could not go on.
        """
        if self.queue.is_closed:
            raise UsageError(
                f"this {type(self).__name__} has crawled already; make another one, which goes on "
                "where it was"
            )
        self.exit_code = EXIT_UNFINISHED
        await self.job.open(fresh=fresh, signals=signals)
        is_finished = False
        stop_showing = show(self)
        try:
            if not self.joins:
                self._parts.owner.take(self.job.store.address)
            await self.job.patiently(self._parts.timekeeper.look)
            self.statistics.begin_life(self.clock.now(), joins=self.joins)
            self._parts.allowance.begin()
            async with self._equipped():
                await self._hooked(self.on_start())
                # Before and after that there is nothing that would have to wait for what blocks.
                with Watch(self.job.pulse, type(self).__module__):
                    is_finished = await self._work_until_done()
                if is_finished and await self._is_first_at_the_end():
                    is_finished = await self._finish()
        finally:
            self.queue.close()
            self.statistics.in_flight = 0
            self.statistics.end_life(self.clock.now(), is_finished)
            stop_showing(is_finished)
            try:
                self.exit_code = await self.job.close(finished=is_finished)
            finally:
                await self._parts.close()
        if self.late_output is not None and not self.job.is_migrating:
            await self._parts.write_output(self.late_output)
            self.is_output_written = True
        return self.statistics

    # -- the crawl ----------------------------------------------------------------------------

    @asynccontextmanager
    async def _equipped(self) -> AsyncIterator[None]:
        """What fetches is ready; in the end all of it is given back, also where some of it fails.

        The last checkpoint comes after that: a fetcher of the user's own must not keep it away.
        """
        async with AsyncExitStack() as ends:
            ends.push_async_callback(self.page_cache.close)
            ends.push_async_callback(self.fetcher.close)
            await self._parts.open()
            await self.page_cache.open()
            await self.fetcher.open()
            yield

    async def _work_until_done(self) -> bool:
        """Run the workers until nothing is left, or until the job is told to stop."""
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(self.job.stopping())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.queue.close()
                await asyncio.wait({work}, timeout=self.job.grace_left)
        finally:
            stopping.cancel()
            self.queue.close()
            work.cancel()
            await asyncio.wait({work})
        if self.job.failure is not None:
            # What the workers met is the same, and asyncio is not to print it.
            _ = work.cancelled() or work.exception()
            raise self.job.failure
        if not work.cancelled():
            work.result()
        return self._parts.feeder.is_finished

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._workers:
                self._workers.create_task(self._seed())
                self._workers.create_task(self._feed())
                self._hire()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._workers = None

    def _hire(self) -> None:
        """Have a worker for each request that may be in flight; those that are too many wait."""
        if self._workers is not None and not self.queue.is_closed:
            for _ in range(self._hired, self.concurrency):
                self._workers.create_task(self._worker())
            self._hired = max(self._hired, self.concurrency)

    async def _seed(self) -> None:
        """Enqueue what the crawl begins with, but for what was enqueued in an earlier life."""
        with self._ending_all(), self._endings.raising_stray():
            async with self._seeds.turn():
                self._seeds.sow_sitemaps(self.sitemaps)
                await self._seeds.sow(self.start_urls, self.start_file, self.start_requests())
        self._parts.feeder.seeded()

    async def _feed(self) -> None:
        with self._ending_all():
            await self._parts.feeder.feed()

    @contextmanager
    def _ending_all(self) -> Iterator[None]:
        """What is raised in here ends the crawl: whoever is cancelled with it can tell that."""
        try:
            yield
        except BaseException:
            self.queue.close()
            raise

    async def _is_first_at_the_end(self) -> bool:
        """Whether this is the one worker of the run for which `on_finish` is called."""
        if self.job.store.is_shared:
            # Who comes to the end has told of it all that was done up to there: if it dies before
            # that, the end is another's to see.
            await self.job.settle()
        return await self.job.patiently(self.job.store.finish)

    async def _finish(self) -> bool:
        """The end, for the one worker of the run that is told of it; whether it is the end."""
        if self.job.store.is_shared:
            self.statistics.refresh(
                Saved("statistics", await self.job.patiently(self.job.store.load))
            )
        pending, changes = self.statistics.pending, self.queue.changes
        await self._hooked(self.on_finish(self.statistics))
        if self.queue.changes == changes:
            return True
        await self.job.settle()  # it has enqueued something, which the store may know already
        return self.statistics.pending <= pending

    async def _worker(self) -> None:
        with self._ending_all():
            while True:
                try:
                    return await self._work_off()
                except asyncio.CancelledError as error:
                    # A handler may have cancelled its task just before it came to its end.
                    if self._endings.stray(error) is None:
                        raise

    async def _work_off(self) -> None:
        while (lease := await self.queue.get()) is not None:
            if self.job.is_overdue:
                # Whoever waits here for the store has missed its turn at the host.
                await self.job.be_heard()
                self.queue.put_back(lease)
                if self.job.is_stopping:
                    # Nothing was waited for, so the queue would give the same one for ever, and
                    # nobody else a turn: not even the one who closes it.
                    return
                continue
            await self._process(lease)

    async def _process(self, lease: Lease) -> None:
        started_at, started = self.clock.now(), perf_counter()
        page: Page | None = None
        is_let_through = False
        try:
            refusal = await self._gate.refusal(lease)
            is_let_through = refusal is None
            if self.sitemaps_from_robots and not lease.request.depth:
                self._follow_robots(lease.request)
            if refusal is not None:
                # It asks nothing of the host, so the next one need not wait for its pace.
                self.throttle.refund(lease.host, started_at=started_at)
                self._endings.dropped(lease, *refusal)
                return
            page = await self._fetch(lease, started_at)
            await self._handle(page)
            if len(page.links) > MANY_LINKS:
                # Not for 0: that comes before all that has come in while the handler ran.
                await asyncio.sleep(0.001)
            self._apply(lease, page, perf_counter() - started)
        except HostPaused as pause:
            self._endings.put_back(lease, pause.failure)
        except (StoreError, MissingError) as error:
            # That is none of the request's fault, and costs it no retry.
            self.job.trouble(error)
            self.throttle.hold(lease.host, STORE_REST)
            self._endings.put_back(lease, is_let_through=is_let_through)
        except BaseException as error:
            await self._endings.raised(lease, error, perf_counter() - started, page)
        else:
            if self.job.bus.listens("requestHandled"):
                duration = perf_counter() - started
                await self.job.emit(RequestHandled(lease.request, page.status, duration, page))

    async def _fetch(self, lease: Lease, started_at: float) -> Page:
        request = lease.request
        if request.session is not None:
            await self.sessions.refresh(request.session)
        session = self.sessions.pick(lease.host, request.session, request.url)
        try:
            response = await self.fetcher.fetch(
                request,
                session,
                limits=self._parts.sitemap_limits if request.handler == SITEMAP else None,
                may_follow=partial(self._gate.why_not_redirected, request),
            )
        except FetchError as error:
            self._judge.miss(error, lease, session, started_at)
            raise
        self._judge.hear(response, lease, session, started_at)
        return self.page_of(request, response, session)

    def page_of(self, request: Request, response: Response, session: Session) -> Page:
        """A response as the page that a handler gets."""
        if request.user_data or request.headers:
            # What the handler does with them is gone when the request is tried again.
            request = copied(request)
        return Page(
            request,
            response,
            session,
            item_type=self._item_type,
            state=self.job.state,
            resolve=self._name_of,
            max_links=self.max_links,
            max_elements=self.max_elements,
        )

    async def _fetch_robots(self, request: Request, url: str) -> Response:
        robots = Request(
            url, private=request.private, session=request.session, render=False, cache="off"
        )
        session = self.sessions.pick(host_of(url), robots.session, url)
        return await self.fetcher.fetch(robots, session, limits=self._parts.robots_limits)

    async def _handle(self, page: Page) -> None:
        name = page.request.handler
        if page.needs_preparing and name != SITEMAP:
            async with self._preparing:
                await page.prepare()
        handler = self._handlers.get(name) or self._handler(name)
        await _done(handler(page))

    def _apply(self, lease: Lease, page: Page, duration: float) -> None:
        """Everything that a page does, in one step: there is no await in here."""
        request, now = lease.request, self.clock.now()
        # What may fail comes first.
        is_nofollow = page.links and self._following.is_refused(page)
        if page.updates:
            self._update(page)
        for data in page.items:
            self._parts.items.add(data, request.url, request.handler, now)
        if page.items:
            self.statistics.saved(request.handler, len(page.items))
        for error in page.rejected:
            self._endings.count(error, request.url, page.response)
        if is_nofollow:
            self._following.refuse(page)
        else:
            self._following.follow(page)
        self._endings.handled(lease, page.status, now, duration)

    def _update(self, page: Page) -> None:
        before = self.job.state.snapshot()
        try:
            for update in page.updates:
                if iscoroutine(result := update()):
                    result.close()
                    raise UsageError(
                        "what page.update and page.update_state call cannot be async: it is a part "
                        "of one step; await in the handler, and give them a plain function"
                    )
            self.job.state.snapshot()  # what cannot be saved is refused while it can be undone
        except BaseException:
            self.job.state.roll_back(before)
            raise

    def _follow_robots(self, request: Request) -> None:
        rules = self.robots.peek(request.url)
        if rules is not None:
            self._seeds.sow_named_sitemaps(rules.sitemaps, request)

    async def parse_sitemap(self, page: Page) -> None:
        """Handle a sitemap; see `sitemap_request` for what becomes of its entries.

        It may list millions of pages. So it is the one handler whose effects do not come together
        at its end: what it lists is enqueued bit by bit, with its place in the sitemap.
        """
        await self._seeds.read_sitemap(page, self.sitemap_request, self._following.enqueue)

    # -- small things -------------------------------------------------------------------------

    def _handler(self, name: str, *, is_new: bool = False) -> Callable[[Page], Any]:
        handler = getattr(self, name, None)
        if not callable(handler):
            raise no_handler(type(self), name, is_saved=not is_new)
        if isgeneratorfunction(handler) or isasyncgenfunction(handler):
            raise yielding(type(self), name)
        self._handlers[name] = handler
        return handler  # type: ignore[no-any-return]

    def _name_of(self, handler: Any) -> str:
        name = handler_name(handler)
        self._handlers.get(name) or self._handler(name, is_new=True)
        return name

    async def _hooked(self, result: Awaitable[None] | None) -> None:
        """Await what a hook without a request gave; its failure is that of the crawl."""
        with self._endings.raising_stray():
            await _done(result)

    def _on_commit(self, checkpoint: Checkpoint, receipt: Receipt) -> None:
        self.statistics.enqueued(receipt)
        self.queue.settle(checkpoint, receipt)
        if receipt.wanted:
            self._parts.feeder.hasten()

    def _on_persist_state(self) -> None:
        self.statistics.in_flight = len(self.queue.in_flight)

    async def _on_system_info(self, info: SystemInfo) -> None:
        statistics = self.statistics
        self.throttle.local_delay = info.loop_delay
        self.queue.limit = self._parts.capacity.adjust(info, busy=len(self.queue.in_flight))
        statistics.in_flight = len(self.queue.in_flight)
        statistics.sample(self.clock.now(), info.memory_bytes)
        await self.job.emit(
            CrawlerStatus(
                statistics.requests_finished,
                statistics.requests_failed,
                statistics.pending,
                statistics.in_flight,
                statistics.items_saved,
                statistics.cache_hits,
            )
        )
        try:
            await self._parts.timekeeper.look()
        except StoreError as error:
            self.job.trouble(error)


async def _done(result: Awaitable[None] | None) -> None:
    if result is not None:
        await result
