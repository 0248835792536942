"""Capacity: how many requests may be in flight at once, as far as this machine is concerned."""

from __future__ import annotations

import logging
from statistics import median

from ..events import SystemInfo

log = logging.getLogger("crawlkit.capacity")

START = 32
"""Requests in flight at which a crawl begins, at most; from there it doubles each second."""

MOST_DELAY = 0.1
"""Seconds by which the event loop may be late before fewer requests are in flight."""
GOOD_DELAY = 0.05
"""Seconds by which it may be late for more requests to come in flight."""
AIM = 0.75
"""Share of `MOST_DELAY` that is aimed at: in the middle, where nothing is changed."""
LOOKS = 3
"""Seconds that are looked at: a pause of the garbage collector is one, and no overload."""
HELP = 0.9
"""Share of the event loop's delay that has to be left when lowering has helped."""
PATIENCE = 60
"""Seconds for which it is not lowered again after that did not help; doubled each time."""
MOST_PATIENCE = 960
"""Seconds of that patience, at most."""

USED = 0.75
"""Share of the requests that has to be in flight for more of them to be of use."""

SHORT = 0.85
"""Share of the memory from which it is short."""
ENOUGH = 0.75
"""Share of the memory below which there is enough of it again."""
ROOMY = 512 * 2**20
"""Bytes that are enough in any case, where the share that is left is a part of very much."""

QUOTA_USED = 0.95
"""Share of a processor quota of less than a core from which more requests only wait for it."""


class Capacity:
    """How many requests may be in flight at once, decided anew each second by `adjust`.

    It starts at `concurrency`, which is also the most; where that is much, at 32, and doubles each
    second for as long as the crawl uses it and the machine bears it.

    - *Event loop.* When it is late by more than 100 ms (the median of three seconds), requests wait
      for each other in this process, and less of them do as much. The number is lowered in
      proportion, to at least a half. Where that does not make the loop any quicker, the reason is
      another one, a handler that blocks or a machine that is busy with other things. Then the
      number goes back to what it was, for a minute, and for twice as long each time after that.
    - *Memory.* When more than 85 % of what there may be is in use, and less than 512 MB are left,
      the number is halved each second, down to `min_concurrency`.
    - *Processor.* A crawl that uses its core wholly is a fast crawl. Only a quota of less than a
      core that is used up means that more requests would but wait.

    When all is well again (the loop late by less than 50 ms, less than 75 % of the memory in use),
    it grows by a sixteenth of `concurrency` each second, but only while it is used up. What lies
    between the two bounds changes nothing; so it comes to rest, rather than to swing.

    Args:
        concurrency: The most.
        min_concurrency: The least.

    Attributes:
        limit: How many requests may be in flight now.
    """

    def __init__(self, concurrency: int, min_concurrency: int = 1) -> None:
        self._most = concurrency
        self._least = min(min_concurrency, concurrency)
        self._step = max(1, concurrency // 16)
        self.limit = max(self._least, min(concurrency, START))
        self._is_new = True  # nothing was ever too much
        self._delays: list[float] = []
        self._lowered: tuple[int, float] | None = None  # from what, at which delay
        self._patience = PATIENCE
        self._wait = 0
        self._is_short = False

    def adjust(self, info: SystemInfo, *, busy: int) -> int:
        """How many requests may be in flight now.

        Args:
            info: How the process is doing; one each second.
            busy: Requests in flight.
        """
        delay = self._look(info.loop_delay)
        if self._memory_is_short(info):
            self._lower_to(self.limit // 2)
        elif delay is not None and delay > MOST_DELAY:
            self._relieve(delay)
        elif self._may_grow(info, delay, busy):
            grown = 2 * self.limit if self._is_new else self.limit + self._step
            self.limit = min(grown, self._most)
        return self.limit

    def allow(self, concurrency: int) -> int:
        """Have another number for the most, from now on.

        Returns:
            How many requests may be in flight now.
        """
        if self.limit >= self._most:  # nothing stood against more of them
            self.limit = max(self.limit, START)
        self._most = concurrency
        self._least = min(self._least, concurrency)
        self._step = max(1, concurrency // 16)
        self.limit = min(self.limit, concurrency)
        return self.limit

    def _look(self, delay: float) -> float | None:
        """By how much the event loop is late; `None` while that is not known yet."""
        self._wait = max(0, self._wait - 1)
        self._delays = [*self._delays[1 - LOOKS :], delay]
        return median(self._delays) if len(self._delays) == LOOKS else None

    def _lower_to(self, limit: int) -> None:
        self.limit = max(limit, self._least)
        self._is_new = False
        self._lowered = None
        self._delays.clear()

    def _relieve(self, delay: float) -> None:
        """The event loop is late: lower the number, unless that is known not to help."""
        if self._lowered is not None and delay > HELP * self._lowered[1]:
            self.limit = max(self.limit, self._lowered[0])
            self._lowered = None
            self._delays.clear()
            self._wait, self._patience = self._patience, min(2 * self._patience, MOST_PATIENCE)
        elif not self._wait and self.limit > self._least:
            before = self.limit
            self._lower_to(int(before * max(AIM * MOST_DELAY / delay, 0.5)))
            self._lowered = (before, delay)

    def _may_grow(self, info: SystemInfo, delay: float | None, busy: int) -> bool:
        if delay is not None and delay <= MOST_DELAY and self._lowered is not None:
            self._lowered = None  # it has helped
            self._patience = PATIENCE
        if self._is_short or self.limit >= self._most or busy < USED * self.limit:
            return False
        if info.cpu_limit < 1.0 and info.cpu >= QUOTA_USED * info.cpu_limit:
            return False
        if delay is None:
            # A crawl that begins need not wait; one that was lowered has to see what it did.
            return self._is_new and info.loop_delay < GOOD_DELAY
        return max(delay, info.loop_delay) < GOOD_DELAY

    def _memory_is_short(self, info: SystemInfo) -> bool:
        limit, used = info.memory_limit_bytes, info.memory_used_bytes
        if limit is None or used is None or limit <= 0:
            return False
        was_short = self._is_short
        left = limit - used
        if used > SHORT * limit and left < ROOMY:
            self._is_short = True
        elif used < ENOUGH * limit or left > 2 * ROOMY:
            self._is_short = False
        else:
            return False  # neither: nothing is lowered any further, and nothing grows
        if self._is_short and not was_short:
            log.warning(
                "memory is short: %d of %d MB are in use; fewer requests at once until there is "
                "more of it (%d so far); give the process more, or lower concurrency",
                used >> 20,
                limit >> 20,
                self.limit,
            )
        elif was_short and not self._is_short:
            log.info("there is enough memory again: %d of %d MB", used >> 20, limit >> 20)
        return self._is_short
