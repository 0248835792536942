"""Steering: what a user does with a crawler, beside writing its handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .errors import OptionError
from .events import Listener
from .failures import Which
from .job import Job, P
from .urls import canonical

if TYPE_CHECKING:
    from .cache import PageCache
    from .crawling.parts import Parts
    from .queue import RequestQueue
    from .statistics import Statistics

T = TypeVar("T")


class Steering:
    """Events, values and state of a crawl, and how it is told what to do while it goes on."""

    job: Job
    queue: RequestQueue
    statistics: Statistics
    page_cache: PageCache
    concurrency: int
    _parts: Parts

    def _hire(self) -> None:
        """Have as many workers as `concurrency` says."""
        raise NotImplementedError

    # -- events, values, state ------------------------------------------------------------------

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

        It is no effect of a page: what a handler keeps is kept at once, also where it fails later.

        Raises:
            UsageError: JSON cannot hold it, or there is no key.
        """
        await self.job.set_value(key, value)

    @overload
    async def cached(
        self, key: str, compute: Callable[[], Awaitable[T]], ttl: float | None = None
    ) -> T: ...

    @overload
    async def cached(self, key: str, compute: Callable[[], T], ttl: float | None = None) -> T: ...

    async def cached(
        self, key: str, compute: Callable[[], Any], ttl: float | None = None
    ) -> object:
        """What `compute` gives, computed once: data that many pages share, also across runs.

        Args:
            key: Its name. However many ask for it at once, it is computed once.
            compute: A function, plain or async, that gives a JSON-like value.
            ttl: Seconds for which it holds; ``None`` for ever.

        Raises:
            UsageError: It cannot be JSON, or its computation asks for itself.
            Exception: What `compute` raises reaches all who wait for it, and is not kept.
        """
        return await self.page_cache.cached(key, compute, ttl)

    # -- while it goes on: from a listener, a handler, or another task of the loop ---------------

    def pause(self) -> None:
        """Begin no further request until `resume`; those in flight end as usual.

        Checkpoints go on, and the crawl can be stopped meanwhile. A crawl that is started again is
        not paused.
        """
        self.queue.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self.queue.resume()

    @property
    def is_paused(self) -> bool:
        """Whether the crawl was told to `pause`."""
        return self.queue.is_paused

    def set_concurrency(self, concurrency: int) -> None:
        """Have at most `concurrency` requests in flight, in this life of the run.

        Where it is lowered, those that are too many end as usual.

        Raises:
            OptionError: It is less than 1.
        """
        if concurrency < 1:
            raise OptionError(f"concurrency cannot be {concurrency}; give a number from 1 on")
        self.concurrency = concurrency
        self.queue.resize(concurrency)
        self.queue.limit = self._parts.capacity.allow(concurrency)
        self._hire()

    async def retry_failed(
        self,
        *,
        group: str | None = None,
        error: str | None = None,
        handler: str | None = None,
        host: str | None = None,
        url: str | None = None,
    ) -> int:
        """Put requests that were given up back into the queue; how many there were.

        They have all their retries before them. When this returns it is durable; if the process
        dies before, those that were not yet put back are still failed.

        Args:
            group: Only errors of this group, by its ``id`` in ``statistics.errors``.
            error: Only errors of this kind.
            handler: Only requests for this handler.
            host: Only requests to this ``host[:port]``.
            url: Only the request of this URL.

        Raises:
            UsageError: The crawl is over, or about to stop; or there is no such group.
            StoreError: It could not be written down yet.
        """
        which = Which(
            url=None if url is None else canonical(url), host=host, handler=handler, error=error
        )
        if group is not None:
            which = which.of_group(group, self.statistics.errors)
        return await self._parts.retrying.retry(which)
