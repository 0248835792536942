"""Endings: how a worker comes to the end of a request, with an outcome or without."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..checkpoint import Lease, Ticket
from ..clock import Clock
from ..counting.errorgroups import GroupKey
from ..counting.specimens import Specimens
from ..discovery.seeds import SITEMAP, Seeds
from ..errors import (
    FetchError,
    PageTypeError,
    ProxyError,
    RedirectError,
    UsageError,
    one_line,
)
from ..events import RequestFailed, RequestRetried, RequestSkipped
from ..hooks import Hooks
from ..job import Job
from ..page import Page
from ..politeness.backoff import backoff
from ..politeness.throttle import Throttle
from ..queue import RequestQueue
from ..request import Request
from ..response import Response
from ..statistics import Statistics
from . import outcomes
from .gate import Gate

log = logging.getLogger("crawlkit.crawler")


class Endings:
    """How requests end: handled, dropped, failed, or back in the queue.

    Each ends in one step, without an `await` from the first that is changed to the last: it is
    counted, its host is free again, and the next checkpoint has all of it.

    Args:
        job: The life of the run.
        hooks: What is told of failures.
        queue: Where requests come from.
        throttle: The pace of hosts.
        statistics: Where everything is counted.
        specimens: Where the first response of a kind of error is kept.
        gate: What has let the requests through.
        seeds: What forgets a sitemap that is given up.
        max_retries: How often a request is tried again.
        max_proxies: How many proxies may fail with a request before that counts as its failure.
    """

    def __init__(
        self,
        job: Job,
        hooks: Hooks,
        queue: RequestQueue,
        throttle: Throttle,
        statistics: Statistics,
        specimens: Specimens,
        gate: Gate,
        seeds: Seeds,
        *,
        max_retries: int,
        max_proxies: int,
    ) -> None:
        self._job = job
        self._hooks = hooks
        self._queue = queue
        self._throttle = throttle
        self._statistics = statistics
        self._specimens = specimens
        self._gate = gate
        self._seeds = seeds
        self._max_retries = max_retries
        self._max_proxies = max_proxies
        self._clock: Clock = job.clock
        self._proxy_failures: Counter[Ticket] = Counter()

    # -- with an outcome --------------------------------------------------------------------------

    def handled(self, lease: Lease, status: int, now: float, duration: float) -> None:
        """Its handler has succeeded, and the effects of its page are applied."""
        request = lease.request
        self._over(lease, has_outcome=True)
        self._queue.finish(lease, outcomes.handled(lease, status, now, duration))
        self._statistics.finished(request.handler, lease.host, duration, request.retry_count)

    def dropped(self, lease: Lease, reason: str, detail: str) -> None:
        """It was enqueued, and is not fetched after all."""
        request = lease.request
        if not request.depth:
            log.warning("%s is not fetched: %s %s", request.url, reason, detail)
        self._proxy_failures.pop(lease.ticket, None)
        self._queue.drop(lease, outcomes.dropped(lease, reason, detail, self._clock.now()))
        self._statistics.skipped(reason)
        self._statistics.dropped()
        self._job.tell(RequestSkipped(request.url, reason))

    async def raised(
        self, lease: Lease, error: BaseException, duration: float, page: Page | None
    ) -> None:
        """Its fetch or its handler raised an error: see `failed`.

        Raises:
            BaseException: The error itself, where it is the end of the crawl or of the process.
        """
        if isinstance(error, ProxyError):
            await self._proxy_failed(lease, error, duration)
        elif (failure := self._failure_by(error)) is not None:
            await self.failed(lease, failure, duration, page)
        else:
            if isinstance(error, asyncio.CancelledError):
                self._queue.release(lease)
            raise error

    async def failed(
        self, lease: Lease, error: Exception, duration: float, page: Page | None = None
    ) -> None:
        """A try failed: tell the user, then have it tried again, or give it up.

        Args:
            lease: The request.
            error: Why.
            duration: Seconds that the try took.
            page: Its page, where it has come that far.
        """
        request = lease.request
        will_retry = request.retry_count < self._max_retries and is_retryable(request, error)
        try:
            # Before anything is counted: a process that dies in here does all of it again.
            await self._call(self._hooks.on_error, request, error)
            if not will_retry:
                await self._call(self._hooks.on_failed, request, error)
        except asyncio.CancelledError:
            self._queue.release(lease)
            raise
        response = None if page is None else page.response
        if isinstance(error, FetchError):
            response = error.response or response
        group = self.count(error, request.url, response)
        self._over(lease, has_outcome=not will_retry)
        if will_retry:
            delay = backoff(request.retry_count)
            again = request.replace(retry_count=request.retry_count + 1)
            self._queue.retry(lease, again, self._clock.now() + delay)
            self._statistics.retried(request.handler, lease.host)
            await self._job.emit(RequestRetried(request, error, delay))
        else:
            if request.handler == SITEMAP:
                self._seeds.give_up(request.url)
            now = self._clock.now()
            self._queue.finish(lease, outcomes.failed(lease, error, group, now, duration))
            self._statistics.failed(request.handler, lease.host, duration, request.retry_count)
            await self._job.emit(RequestFailed(request, error))

    # -- without one ------------------------------------------------------------------------------

    def put_back(
        self, lease: Lease, failure: FetchError | None = None, *, is_let_through: bool = True
    ) -> None:
        """It is left for later, through no fault of its own; that costs it no retry.

        Args:
            lease: The request.
            failure: What its host, or its proxy, answered.
            is_let_through: Whether the gate had let it through.
        """
        if failure is not None:
            self.count(failure, lease.request.url, failure.response)
        if is_let_through:
            self._gate.ended(lease, has_outcome=False)
        self._queue.put_back(lease)

    async def _proxy_failed(self, lease: Lease, error: ProxyError, duration: float) -> None:
        """Try again through another proxy; it costs the request no retry, within reason."""
        self._proxy_failures[lease.ticket] += 1
        if self._proxy_failures[lease.ticket] > self._max_proxies:
            await self.failed(lease, error, duration)
        else:
            self._throttle.hold(lease.host, error.retry_after)
            self.put_back(lease, error)

    # -- cancelled --------------------------------------------------------------------------------

    def stray(self, error: asyncio.CancelledError) -> RuntimeError | None:
        """What to report of a cancellation that is not the end of the crawl; else ``None``.

        Who waits for a task that somebody else cancels meets the same error as if he were cancelled
        himself, and some libraries do cancel the task that they run in, to end a wait. A task group
        takes both for its own doing: it forgets the worker, and its request, in silence.
        """
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            if self._queue.is_closed:
                return None
            while task.uncancel():
                pass
        failure = RuntimeError("something that it waited for was cancelled")
        return failure.with_traceback(error.__traceback__)

    @contextmanager
    def raising_stray(self) -> Iterator[None]:
        """Raise as an error what is cancelled in here and is not the end of the crawl."""
        try:
            yield
        except asyncio.CancelledError as error:
            if (failure := self.stray(error)) is None:
                raise
            raise failure from error

    # -- inside -----------------------------------------------------------------------------------

    def count(self, error: Exception, url: str, response: Response | None) -> GroupKey:
        """Count an error, and keep the response if it is the first one of its group."""
        group = self._statistics.error(error, url)
        if response is not None:
            self._specimens.keep(group, response, self._clock.now())
        return group

    def _over(self, lease: Lease, *, has_outcome: bool) -> None:
        self._gate.ended(lease, has_outcome=has_outcome)
        if self._proxy_failures:
            self._proxy_failures.pop(lease.ticket, None)

    async def _call(self, hook: Callable[..., Awaitable[None] | None], *args: Any) -> None:
        try:
            if (result := hook(*args)) is not None:
                await result
        except BaseException as error:
            if self._failure_by(error) is None:
                raise
            log.error("%s failed: %s", hook.__qualname__, one_line(error))

    def _failure_by(self, error: BaseException) -> Exception | None:
        """What raised it has failed with; `None` where that is the end of more than this."""
        if isinstance(error, Exception):
            return error
        if isinstance(error, asyncio.CancelledError):
            return self.stray(error)
        if isinstance(error, GeneratorExit | KeyboardInterrupt | SystemExit):
            return None
        # A panic of a library in Rust, say. It would end the next life at the same page, too.
        return RuntimeError(one_line(error)).with_traceback(error.__traceback__)


def is_retryable(request: Request, error: Exception) -> bool:
    """Whether it may help to try again: not where the crawler itself is wrong."""
    if request.handler == SITEMAP and isinstance(error, PageTypeError):
        return False  # what could be read of it is enqueued, and it would break off there again
    if isinstance(error, FetchError | RedirectError):
        return error.retryable
    return not isinstance(error, UsageError)
