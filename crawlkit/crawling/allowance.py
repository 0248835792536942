"""Allowance: how many more pages a crawl may begin, by its ``max_pages``."""

from __future__ import annotations

from ..queue import RequestQueue
from ..statistics import Statistics
from ..stores.base import Allotment, Store

PAGES = ("requests_finished", "requests_failed")
"""The counters of pages."""


class Allowance:
    """Keeps the budget of the queue, so that `max_pages` holds over all lives and all workers.

    A process that is alone knows what is left. One of several takes some at a time from the store,
    and gives back what it cannot use.

    Args:
        store: Where other workers take theirs from.
        queue: Whose budget it is.
        statistics: What was done so far.
        max_pages: How many pages may be done; ``None`` for no limit.
        at_once: How many to have at hand.

    Attributes:
        is_spent: All pages are done, by whomever; there is nothing more to take.
    """

    def __init__(
        self,
        store: Store,
        queue: RequestQueue,
        statistics: Statistics,
        max_pages: int | None,
        at_once: int,
    ) -> None:
        self._store = store
        self._queue = queue
        self._statistics = statistics
        self._max_pages = max_pages
        self._at_once = at_once
        # What was to be given back, and nobody knows whether it was: the next answer tells.
        self._in_doubt = 0
        self.is_spent = False

    def begin(self) -> None:
        """The parts are restored."""
        if self._max_pages is None:
            return
        statistics = self._statistics
        done = statistics.requests_finished + statistics.requests_failed
        self._queue.budget = 0 if self._store.is_shared else self._max_pages - done

    async def refill(self) -> None:
        """See to it that more may be begun, as far as there is more.

        Raises:
            StoreError: The store is in trouble.
        """
        queue = self._queue
        if self._max_pages is None:
            return
        if not self._store.is_shared:
            self.is_spent = queue.is_spent
            return
        if queue.budget < self._at_once and not self.is_spent:
            allotment = await self._allot(int(self._at_once - queue.budget))
            self.is_spent = allotment.is_spent and queue.is_spent

    async def give_back(self) -> None:
        """This worker has nothing to do; another one may.

        Raises:
            StoreError: The store is in trouble. Nothing is lost: `refill` finds out what became of
                it.
        """
        if self._max_pages is None or not self._store.is_shared or self._queue.budget <= 0:
            return
        unused, self._queue.budget = int(self._queue.budget), 0
        self._in_doubt += unused
        await self._allot(-unused)

    async def _allot(self, wanted: int) -> Allotment:
        assert self._max_pages is not None
        allotment = await self._store.allot(PAGES, self._max_pages, wanted)
        # With what calls that failed were granted, or gave back: the store tells it now.
        in_doubt, self._in_doubt = self._in_doubt, 0
        self._queue.allow(allotment.granted + in_doubt)
        return allotment
