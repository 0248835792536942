"""Crawler: what you subclass, and the path of a request through it.

Read it from the middle: `_worker` claims a request and has it processed; `_process` fetches it,
calls its handler and applies what the handler asked for. Everything that a page does becomes
visible in `_apply`, in one step, and durable in the next checkpoint. Around that, `crawl` opens and
closes the job, and `_feed` brings requests from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from itertools import islice
from time import perf_counter
from typing import Any

from .checkpoint import Checkpoint, Lease, Outcome
from .clock import Clock
from .errors import (
    BlockedError,
    CrawlkitError,
    FetchError,
    HandlerError,
    RedirectError,
    StatusError,
    StoreError,
    UrlError,
    UsageError,
    one_line,
)
from .events import (
    CrawlerStatus,
    Listener,
    RequestFailed,
    RequestHandled,
    RequestRetried,
    RequestSkipped,
    SessionRetired,
    SystemInfo,
)
from .fetching import AiohttpFetcher, Fetcher, Limits, failure_of, retry_after
from .items import ItemType
from .job import Job, P
from .options import Options
from .output import ItemWriter
from .page import Page, handler_name
from .queue import RequestQueue
from .request import Request, fingerprint
from .response import Response
from .runner import run
from .scope import Scope
from .sessions import SessionPool
from .start import StartRequests, start_source
from .statistics import Statistics
from .stores.base import Claim, Receipt
from .throttle import Throttle, backoff

log = logging.getLogger("crawlkit.crawler")

PAUSING = (429, 503)
SEEDS_AT_ONCE = 500
"""Start requests after which a checkpoint is taken."""

STORE_REST = 0.05
"""Seconds between two looks at a store that is in trouble."""


class HostPaused(Exception):
    """The host asked to be left alone; the request goes back and it costs no retry."""


class Crawler(Options):
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
        fetcher: What turns requests into responses; replace it in `__init__` for another client.
        exit_code: What the process should end with: 0 finished, 75 stopped before the end.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.clock = Clock()
        self.job = Job(
            self.store,
            persist_interval=self.persist_interval,
            grace=self.grace,
            store_patience=self.store_patience,
            durability=self.durability,
            clock=self.clock,
        )
        self.statistics = self.persist("statistics", Statistics(self.clock))
        self.throttle = self.persist(
            "throttle",
            Throttle(self.clock, concurrency_per_host=self.concurrency_per_host, delay=self.delay),
        )
        self.queue = self.persist(
            "queue", RequestQueue(self.clock, self.throttle, concurrency=self.concurrency)
        )
        self.sessions = self.persist(
            "sessions",
            SessionPool(
                self.clock,
                size=self.session_pool_size,
                max_age=self.session_max_age,
                max_usage=self.session_max_usage,
                max_error_score=self.session_max_error_score,
                error_score_decrement=self.session_error_decrement,
                proxies=self.proxies,
                persist=self.persist_sessions,
                on_retired=lambda id, reason: self.job.tell(SessionRetired(id, reason)),
            ),
        )
        self.fetcher: Fetcher = AiohttpFetcher(
            limits=Limits(idle=self.idle_timeout, total=self.timeout, body=self.max_body),
            user_agent=self.user_agent,
            headers=self.headers,
            may_follow=self._why_not_redirected,
        )
        self.exit_code = 0
        self._items = self.persist("items", ItemWriter(self.output, stored=self._stored_items))
        self._start = self.persist("start", StartRequests())
        self._scope = Scope(self.scope, include=self.include, exclude=self.exclude)
        self._item_type = None if self.item_type is None else ItemType(self.item_type)
        self._accepted = frozenset(self.accept_status)
        self._handlers: dict[str, Callable[[Page], Any]] = {}
        self._is_seeded = False
        self._is_finished = False
        self.job.on_commit(self._on_commit)
        self.job.on("persistState", self._on_persist_state)
        self.job.on("systemInfo", self._on_system_info)

    # -- for subclasses to override, with plain functions or with async ones --------------------

    def parse(self, page: Page) -> Awaitable[None] | None:
        """Handle a page: the default handler."""
        raise HandlerError(
            f"{type(self).__name__} has no parse; write 'async def parse(self, page)'"
        )

    def start_requests(self) -> Iterable[Request | str] | AsyncIterable[Request | str]:
        """Further start requests, besides `start_urls`; may be a generator, plain or async.

        After a restart it is begun again and what was enqueued is skipped, so it has to give the
        same sequence each time. It is not called any more once it has come to its end.
        """
        return ()

    def on_start(self) -> Awaitable[None] | None:
        """Called in every life, when everything is restored and before the first request."""

    def on_error(self, request: Request, error: Exception) -> Awaitable[None] | None:
        """Called at every failure, before it is decided whether the request is tried again."""

    def on_failed(self, request: Request, error: Exception) -> Awaitable[None] | None:
        """Called when a request is given up.

        Like `on_error`, it is called again if the process dies before the next checkpoint.
        """

    def on_finish(self, statistics: Statistics) -> Awaitable[None] | None:
        """Called when the crawl is finished, not when it is stopped."""

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

        Args:
            fresh: Throw away what the run holds, and start anew.
            signals: Whether SIGTERM and Ctrl-C stop the crawl.

        Raises:
            CrawlkitError: The crawl could not be begun, or could not go on.
        """
        await self.job.open(fresh=fresh, signals=signals)
        is_finished = False
        try:
            self.statistics.begin_life(self.clock.now())
            if self.max_pages is not None:
                statistics = self.statistics
                done = statistics.requests_finished + statistics.requests_failed
                self.queue.budget = self.max_pages - done
            await self.fetcher.open()
            await _done(self.on_start())
            is_finished = await self._work_until_done()
            if is_finished:
                await _done(self.on_finish(self.statistics))
        finally:
            await self.fetcher.close()
            self.statistics.in_flight = 0
            self.statistics.end_life(self.clock.now(), is_finished)
            self.exit_code = await self.job.close(finished=is_finished)
        return self.statistics

    def on(self, event: str, listener: Listener) -> None:
        """Call `listener`, plain or async, with or without the event, at every `event`."""
        self.job.on(event, listener)

    def off(self, event: str, listener: Listener | None = None) -> None:
        """Stop calling `listener`, or every listener of the event where none is named."""
        self.job.off(event, listener)

    def persist(self, name: str, part: P) -> P:
        """Save `part` at every checkpoint under `name`, restore it at the start; returns it."""
        return self.job.persist(name, part)

    @property
    def state(self) -> dict[str, Any]:
        """A dict of JSON-like values that outlives the process; see `page.update_state`."""
        return self.job.state

    async def get_value(self, key: str, default: Any = None) -> Any:
        """The value that was kept under `key`, in this life or an earlier one."""
        return await self.job.get_value(key, default)

    async def set_value(self, key: str, value: Any) -> None:
        """Keep a JSON-like value under `key`: durable with the next checkpoint. `None` removes it.

        Raises:
            UsageError: JSON cannot hold it.
        """
        await self.job.set_value(key, value)

    # -- the crawl ----------------------------------------------------------------------------

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
            work.cancel()
            await asyncio.wait({work})
        if self.job.failure is not None:
            raise self.job.failure
        if not work.cancelled():
            work.result()
        return self._is_finished

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._seed())
                tasks.create_task(self._feed())
                for _ in range(self.concurrency):
                    tasks.create_task(self._worker())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _seed(self) -> None:
        """Enqueue the start requests, those that were not enqueued in an earlier life."""
        for request in self._start.take_urls(self.start_urls):
            self.queue.add(request)
        if not self._start.is_done:
            source = start_source(self.start_file, self.start_requests())
            async for place, given in self._start.take(source):
                if isinstance(given, UrlError):
                    log.warning("%s; it is left out", given)
                    self.statistics.skipped("malformed")
                else:
                    self.queue.add(given)
                if place % SEEDS_AT_ONCE == 0:
                    # Ten million start requests are not to be held in memory.
                    await self.job.try_checkpoint()
        self._is_seeded = True
        self.queue.hungry.set()

    async def _feed(self) -> None:
        """Keep the queue's window filled from the store, until there is nothing left anywhere."""
        queue = self.queue
        while not (self.job.is_stopping or self._is_finished):
            await queue.hungry.wait()
            queue.hungry.clear()
            if queue.is_starving and self.job.can_save:
                await self.job.try_checkpoint()
            changes = queue.changes
            claim = await self._claim()
            if claim is None:
                await asyncio.sleep(STORE_REST)
                queue.hungry.set()
                continue
            queue.fill(claim)
            is_done = claim.is_exhausted and queue.is_settled and changes == queue.changes
            self._is_finished = self._is_seeded and (is_done or queue.is_spent)
        queue.close()

    async def _claim(self) -> Claim | None:
        """Requests from the store; `None` while the store is in trouble."""
        if not self.job.can_save:
            # What is done cannot be written down, so nothing more is begun.
            return None
        try:
            limit, window = self.queue.wants()
            return await self.job.store.claim(limit, window, self.clock.now())
        except StoreError as error:
            self.job.trouble(error)
            return None

    async def _worker(self) -> None:
        while (lease := await self.queue.get()) is not None:
            await self._process(lease)

    async def _process(self, lease: Lease) -> None:
        started_at, started = self.clock.now(), perf_counter()
        try:
            page = await self._fetch(lease, started_at)
            await self._handle(page)
            self._apply(lease, page, perf_counter() - started)
        except HostPaused:
            self.queue.put_back(lease)
        except asyncio.CancelledError:
            self.queue.release(lease)
            raise
        except Exception as error:
            await self._fail(lease, error, perf_counter() - started)
        else:
            if self.job.bus.listens("requestHandled"):
                duration = perf_counter() - started
                await self.job.emit(RequestHandled(lease.request, page.status, duration))

    async def _fetch(self, lease: Lease, started_at: float) -> Page:
        request, host = lease.request, lease.host
        session = self.sessions.pick(host, request.session)
        try:
            response = await self.fetcher.fetch(request, session)
        except FetchError:
            session.mark_bad()
            raise
        self.statistics.received(host, response.status, len(response.body))
        failure = None if response.status in self._accepted else failure_of(response)
        if failure is None:
            session.mark_good()
            self.throttle.succeeded(host, started_at=started_at)
            return Page(
                request,
                response,
                session,
                item_type=self._item_type,
                state=self.job.state,
                resolve=self._name_of,
            )
        if isinstance(failure, BlockedError):
            session.mark_blocked(host)
        elif failure.retryable:
            session.mark_bad()
        if response.status in PAUSING:
            self._pause(lease, response, failure, started_at)
        raise failure

    def _pause(
        self, lease: Lease, response: Response, failure: FetchError, started_at: float
    ) -> None:
        """Leave the host alone for a while; it costs the request no retry, within reason."""
        seconds = retry_after(response.headers, self.clock.now())
        self.throttle.pause(lease.host, seconds, started_at=started_at)
        if self.throttle.strikes(lease.host) <= self.max_pauses:
            self.statistics.error(failure, lease.request.url)
            raise HostPaused

    async def _handle(self, page: Page) -> None:
        name = page.request.handler
        handler = self._handlers.get(name) or self._handler(name)
        await _done(handler(page))

    def _apply(self, lease: Lease, page: Page, duration: float) -> None:
        """Everything that a page does, in one step: there is no await in here."""
        request, now = lease.request, self.clock.now()
        if page.updates:
            self._update(page)
        for data in page.items:
            self._items.add(data, request.url, request.handler, now)
        if page.items:
            self.statistics.saved(request.handler, len(page.items))
        for error in page.rejected:
            self.statistics.error(error, request.url)
        self._follow(page, now)
        outcome = Outcome(
            "handled",
            request.url,
            lease.fingerprint,
            lease.host,
            now,
            request.handler,
            page.status,
            duration,
            request.retry_count,
        )
        self.queue.finish(lease, outcome)
        self.statistics.finished(request.handler, lease.host, duration, request.retry_count)

    def _update(self, page: Page) -> None:
        before = self.job.state.snapshot()
        try:
            for update in page.updates:
                update()
            self.job.state.snapshot()  # what cannot be saved is refused while it can be undone
        except Exception:
            self.job.state.roll_back(before)
            raise

    def _follow(self, page: Page, now: float) -> None:
        for request in islice(page.links, self.max_links):
            if request.depth > self.max_depth:
                reason: str | None = "max_depth"
            else:
                reason = self._scope.reason(request.url, page.url)
            if reason is None:
                self.queue.add(request)
            else:
                self._skip(request, reason, page, now)
        if len(page.links) > self.max_links:
            for request in page.links[self.max_links :]:
                self._skip(request, "max_links", page, now)

    def _skip(self, request: Request, reason: str, page: Page, now: float) -> None:
        self.statistics.skipped(reason)
        detail = f"{reason}: on {page.url}"
        self.queue.skip(
            Outcome(
                "skipped",
                request.url,
                fingerprint(request),
                request.host,
                now,
                request.handler,
                detail=detail,
            )
        )
        self.job.tell(RequestSkipped(request.url, reason))

    async def _fail(self, lease: Lease, error: Exception, duration: float) -> None:
        """A try failed: tell the user, then try again or give up."""
        request = lease.request
        will_retry = request.retry_count < self.max_retries and is_retryable(error)
        try:
            # Before anything is counted: a process that dies in here does all of it again.
            await self._call_hook(self.on_error, request, error)
            if not will_retry:
                await self._call_hook(self.on_failed, request, error)
        except asyncio.CancelledError:
            self.queue.release(lease)
            raise
        self.statistics.error(error, request.url)
        if will_retry:
            delay = backoff(request.retry_count)
            again = request.replace(retry_count=request.retry_count + 1)
            self.queue.retry(lease, again, self.clock.now() + delay)
            self.statistics.retried(request.handler, lease.host)
            await self.job.emit(RequestRetried(request, error, delay))
        else:
            self.queue.finish(lease, self._failed_outcome(lease, error, duration))
            self.statistics.failed(request.handler, lease.host, duration, request.retry_count)
            await self.job.emit(RequestFailed(request, error))

    def _failed_outcome(self, lease: Lease, error: Exception, duration: float) -> Outcome:
        request = lease.request
        return Outcome(
            "failed",
            request.url,
            lease.fingerprint,
            lease.host,
            self.clock.now(),
            request.handler,
            error.status if isinstance(error, StatusError | BlockedError) else None,
            duration,
            request.retry_count,
            error=error.kind if isinstance(error, CrawlkitError) else type(error).__name__,
            detail=one_line(error),
            request=request,
        )

    async def _call_hook(self, hook: Callable[..., Any], *args: Any) -> None:
        try:
            await _done(hook(*args))
        except Exception as error:
            log.error("%s failed: %s", hook.__qualname__, one_line(error))

    # -- small things -------------------------------------------------------------------------

    def _handler(self, name: str) -> Callable[[Page], Any]:
        handler = getattr(self, name, None)
        if not callable(handler):
            raise HandlerError(
                f"{type(self).__name__} has no handler {name!r}, which a saved request asks for; "
                "give the method its old name back"
            )
        self._handlers[name] = handler
        return handler  # type: ignore[no-any-return]

    def _name_of(self, handler: Any) -> str:
        name = handler_name(handler)
        self._handlers.get(name) or self._handler(name)
        return name

    def _why_not_redirected(self, from_url: str, to_url: str) -> str | None:
        return self._scope.reason(to_url, from_url)

    def _stored_items(self) -> Iterator[bytes]:
        reader = self.job.store.reader()
        try:
            yield from (item.data for item in reader.items())
        finally:
            reader.close()

    def _on_commit(self, checkpoint: Checkpoint, receipt: Receipt) -> None:
        self.statistics.enqueued(receipt)
        self.queue.settle(checkpoint, receipt)

    def _on_persist_state(self) -> None:
        self.statistics.in_flight = len(self.queue.in_flight)

    async def _on_system_info(self, info: SystemInfo) -> None:
        statistics = self.statistics
        statistics.in_flight = len(self.queue.in_flight)
        statistics.sample(self.clock.now(), info.memory_bytes)
        await self.job.emit(
            CrawlerStatus(
                statistics.requests_finished,
                statistics.requests_failed,
                statistics.pending,
                statistics.in_flight,
                statistics.items_saved,
            )
        )


async def _done(result: Awaitable[None] | None) -> None:
    if result is not None:
        await result


def is_retryable(error: Exception) -> bool:
    """Whether it may help to try again: not where the crawler itself is wrong."""
    if isinstance(error, FetchError | RedirectError):
        return error.retryable
    return not isinstance(error, UsageError)
