"""Budgets: how much of a crawl one host, or one kind of URL, may take.

A calendar has a page for every day until the end of time, and a shop one for every order of its
filters. A budget ends that without a rule for each site.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from ..checkpoint import Checkpoint, Document, Saved, decode
from ..discovery.scope import UrlPattern, matcher
from ..errors import OptionError, StoreError, StoreWriteError
from ..stores.base import Allotment

MAX_HOSTS = 10_000
"""Hosts whose counts are kept in memory; those that nothing is in flight for are read again from
the store when they are needed."""
LOOK_AGAIN = 0.1
"""Seconds between two looks at whether another worker has left something of a budget."""


class _Count:
    """Pages that were counted, and pages in flight that will be."""

    __slots__ = ("in_flight", "spent")

    def __init__(self, spent: int = 0) -> None:
        self.spent = spent
        self.in_flight = 0


class _Budget:
    """What the URLs of one pattern may take."""

    __slots__ = (
        "before", "count", "counter", "in_doubt", "is_in_doubt", "limit", "matches", "name",
        "spare", "turn", "unsaved",
    )  # fmt: skip

    def __init__(self, pattern: UrlPattern, limit: int) -> None:
        self.matches = matcher("budgets", pattern)
        self.name = _name(pattern)
        self.counter = f"budget/{self.name}"
        self.limit = _limit(f"the budget of {self.name!r}", limit)
        self.count = _Count()
        self.before = 0  # pages that were counted in another way, by an older crawlkit
        self.unsaved = 0
        # Of several workers: pages that this one was granted and has no use for; those that were
        # to be given back, and nobody knows whether they were; and whether there may be any that
        # it was granted and does not know of.
        self.spare = 0
        self.in_doubt = 0
        self.is_in_doubt = False
        self.turn = asyncio.Lock()


class Budgets:
    """Counts pages by host and by pattern, up to their limits. A persisted part.

    A page counts when it is handled or given up, in the checkpoint that says so. What is in flight
    is held against the limits too, so that they are exact however many requests run at once, but is
    not saved: after a crash it is fetched again, and counted then.

    Each request is first taken (`take`), then either spent (`spend`) or, where it goes back to the
    queue or is tried again later, given back (`give_back`).

    Where several workers write the run, a host is one worker's at a time, and its count is read
    when it comes. What is left for a pattern is handed out by the store, page by page.

    Args:
        read: Reads a document from the store by its name.
        allot: Takes a part of what all workers may do together, see `Store.allot`; ``None`` where
            one process writes the run.
        max_pages_per_host: Pages of one host, at most; ``None`` for no limit. Pages of earlier
            lives count where there was a limit then, be it another one.
        budgets: Pages at most for each pattern. A URL counts for every pattern that it matches.

    Attributes:
        is_limited: Whether there is any limit. Where there is none, nothing needs to be called.

    Raises:
        OptionError: A limit is negative or no whole number, or a pattern is malformed.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[Document | None]],
        *,
        allot: Callable[[tuple[str, ...], int, int], Awaitable[Allotment]] | None = None,
        max_pages_per_host: int | None = None,
        budgets: Mapping[UrlPattern, int] | None = None,
    ) -> None:
        self._read = read
        self._allot = allot
        self._per_host = max_pages_per_host
        if max_pages_per_host is not None:
            _limit("max_pages_per_host", max_pages_per_host)
        self._budgets = [_Budget(pattern, limit) for pattern, limit in (budgets or {}).items()]
        self.is_limited = max_pages_per_host is not None or bool(self._budgets)
        # Ordered, the host used last at the end.
        self._hosts: OrderedDict[str, _Count] = OrderedDict()
        self._reading = asyncio.Lock()
        self._changed: set[str] = set()
        # Handed over and not known to be committed: the store may still say what was before.
        self._handed: set[str] = set()
        self._returning: set[asyncio.Task[None]] = set()

    async def take(self, host: str, url: str) -> str | None:
        """Ask for one more page, just before it is fetched.

        Waits only where the count of the host has to be read from the store.

        Args:
            host: The request's ``host[:port]``.
            url: Its URL in canonical form.

        Returns:
            Why not, ``max_pages_per_host`` or ``budget``, or ``None``: it is then held until
            `spend` or `give_back`.
        """
        counts = []
        if self._per_host is not None:
            count = self._hosts.get(host) or await self._load(host)
            # From here on there is no await: two requests never share what is left for one.
            self._hosts.move_to_end(host)
            if count.spent + count.in_flight >= self._per_host:
                return "max_pages_per_host"
            counts.append(count)
        matching = [budget for budget in self._budgets if budget.matches(url)]
        for budget in matching:
            if budget.count.spent + budget.count.in_flight >= budget.limit:
                return "budget"
            counts.append(budget.count)
        for count in counts:
            count.in_flight += 1
        if self._allot is not None and matching:
            return await self._share_out(host, url, matching)
        return None

    async def _share_out(self, host: str, url: str, budgets: list[_Budget]) -> str | None:
        """Take a page of each budget from what all workers may have together."""
        taken: list[_Budget] = []
        try:
            for budget in budgets:
                if not await self._take_one(budget):
                    break
                taken.append(budget)
            else:
                return None
        except BaseException:
            self._give_up(host, url, taken)
            for budget in budgets:
                self._return_spare(budget)
            raise
        self._give_up(host, url, taken)
        return "budget"

    def _give_up(self, host: str, url: str, taken: list[_Budget]) -> None:
        self._let_go(host, url)
        for budget in taken:
            self._put_back(budget)

    async def _take_one(self, budget: _Budget) -> bool:
        """Take a page; `False` where all of them are spent."""
        while budget.spare <= 0:
            allotment = await self._ask(budget, budget.limit - budget.before, 1)
            if budget.spare <= 0:
                if allotment.is_spent:
                    return False
                # What is left is in flight elsewhere, and may come back.
                await asyncio.sleep(LOOK_AGAIN)
        budget.spare -= 1
        self._return_spare(budget)
        return True

    async def _ask(self, budget: _Budget, most: int, wanted: int) -> Allotment:
        assert self._allot is not None
        # One after the other, as an answer also tells what became of calls before it that failed.
        async with budget.turn:
            if wanted < 0:
                wanted = -max(0, budget.spare)
                budget.spare += wanted
                budget.in_doubt -= wanted
            try:
                allotment = await self._allot((budget.counter,), most, wanted)
            except StoreWriteError:
                budget.is_in_doubt = True
                raise
            budget.spare += allotment.granted + budget.in_doubt
            budget.in_doubt, budget.is_in_doubt = 0, False
            return allotment

    def _put_back(self, budget: _Budget) -> None:
        """A page of the budget is free again, for whomever."""
        budget.spare += 1
        self._return_spare(budget)

    def _return_spare(self, budget: _Budget) -> None:
        if budget.spare > 0 or budget.is_in_doubt:
            task = asyncio.create_task(self._return(budget))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _return(self, budget: _Budget) -> None:
        """Let others have what this worker has no use for; the store may be in trouble for long."""
        while budget.spare > 0 or budget.is_in_doubt:
            try:
                await self._ask(budget, 0, -1)
            except StoreWriteError:
                await asyncio.sleep(LOOK_AGAIN)
            except StoreError:
                return  # this worker's part is over, and its grants with it; others say so

    def _let_go(self, host: str, url: str) -> None:
        for count in self._counts(host, url):
            count.in_flight -= 1

    def give_back(self, host: str, url: str) -> None:
        """A page that was taken has not become one: it is put back, or tried again later."""
        self._let_go(host, url)
        if self._allot is not None:
            for budget in self._budgets:
                if budget.matches(url):
                    self._put_back(budget)

    def spend(self, host: str, url: str) -> None:
        """A page that was taken is handled or given up. Called in the step that says so."""
        for budget in self._budgets:
            if budget.matches(url):
                budget.unsaved += 1
        for count in self._counts(host, url):
            count.in_flight -= 1
            count.spent += 1
        if self._per_host is not None:
            self._changed.add(host)

    def forget(self, host: str) -> None:
        """The host comes from another worker, perhaps: what is known of it may not hold."""
        count = self._hosts.get(host)
        is_ours = host in self._changed or host in self._handed
        if count is not None and not (count.in_flight or is_ours):
            del self._hosts[host]

    def _counts(self, host: str, url: str) -> list[_Count]:
        """All that a page counts for."""
        counts = [budget.count for budget in self._budgets if budget.matches(url)]
        if self._per_host is not None:
            counts.append(self._hosts[host])
        return counts

    def told(self, limit: str, host: str, url: str) -> str:
        """What the limit says that a page was refused by; see `take`."""
        if limit == "max_pages_per_host":
            return f"{self._per_host} of {host}"
        matching = [budget for budget in self._budgets if budget.matches(url)]
        full = [each for each in matching if each.count.spent + each.count.in_flight >= each.limit]
        return ", ".join(f"{each.limit} of {each.name}" for each in full or matching)

    # -- counts of hosts ----------------------------------------------------------------------

    async def _load(self, host: str) -> _Count:
        """The count of a host that is not in memory."""
        # One at a time: a count that was read before another reader had it, spent from it and
        # forgot it again would be too small.
        async with self._reading:
            count = self._hosts.get(host)
            if count is None:
                document = await self._read(f"budgets/{host}")
                spent = 0 if document is None else decode(document.data, f"budgets/{host}", int)
                count = self._hosts[host] = _Count(spent)
                # It is not forgotten before its caller has had it, which runs right after this.
                self._forget_idle()
            return count

    def _forget_idle(self) -> None:
        """Forget up to two of the hosts that were not used for longest: more than can come."""
        for _ in range(2):
            if len(self._hosts) <= MAX_HOSTS:
                return
            host, count = next(iter(self._hosts.items()))
            if count.in_flight or host in self._changed or host in self._handed:
                self._hosts.move_to_end(host)
            else:
                del self._hosts[host]

    # -- a persisted part ---------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Take back the counts of the patterns. Those of hosts are read when they are needed."""
        before = saved.load({}, type=dict[str, int])
        counters = saved.snapshot.counters
        for budget in self._budgets:
            budget.before = before.get(budget.name, 0)
            budget.count.spent = budget.before + int(counters.get(budget.counter, 0))

    def collect(self, checkpoint: Checkpoint) -> None:
        """Add the counts that changed."""
        self._handed, self._changed = self._changed, set()
        for host in self._handed:
            checkpoint.save(self._hosts[host].spent, key=host)
        for budget in self._budgets:
            if budget.unsaved:
                checkpoint.add[budget.counter] = budget.unsaved
                budget.unsaved = 0

    def settle(self) -> None:
        """What was handed over is committed.

        From here on another worker may have its hosts, and have them done before the next
        checkpoint is taken here.
        """
        self._handed = set()


def _name(pattern: UrlPattern) -> str:
    """What a pattern is saved under: its text, as it would be written in an option."""
    if isinstance(pattern, re.Pattern):
        flags = pattern.flags & ~re.UNICODE
        return f"re:(?#{flags}){pattern.pattern}" if flags else f"re:{pattern.pattern}"
    return pattern


def _limit(what: str, limit: int) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise OptionError(f"{what} is {limit!r}; give a number of pages, 0 or more")
    return limit
