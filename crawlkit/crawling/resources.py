"""Resources: what pages in the browser load from their hosts, by the rules that hold for pages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ..clock import Clock
from ..http.answers import retry_after
from ..politeness.robots import Robots
from ..politeness.throttle import Throttle
from ..queue import RequestQueue
from .gate import HostPaused

SHORT = 5.0
"""Seconds of a pause that a page in the browser waits for; for a longer one it is put back."""


class Resources:
    """What a host asks of the pages in the browser that load from it (`rendering.loading.Manners`).

    Its robots.txt holds, and so do the number of requests at once and pauses. Delays hold between
    pages only: a page and what belongs to it are one visit, as that of a person is.

    Args:
        clock: The run's clock.
        throttle: The pace of hosts.
        queue: What waits for hosts.
        robots: What each host asks crawlers to leave alone; ``None`` where nobody is asked.
    """

    def __init__(
        self, clock: Clock, throttle: Throttle, queue: RequestQueue, robots: Robots | None
    ) -> None:
        self._clock = clock
        self._throttle = throttle
        self._queue = queue
        self._robots = robots

    def now(self) -> float:
        """Unix time."""
        return self._clock.now()

    def refusal(self, url: str) -> str | None:
        """The line of a robots.txt that forbids a URL, where one is known that does."""
        rules = None if self._robots is None else self._robots.peek(url)
        return None if rules is None else rules.reason(url)

    async def wait(self, host: str) -> None:
        """Wait until a pause is over.

        Raises:
            HostPaused: It is a long one, and the page is to be opened again after it.
        """
        while (left := self._throttle.paused_until(host) - self._clock.now()) > 0:
            if left > SHORT:
                raise HostPaused(None)
            await asyncio.sleep(left)

    def take(self, host: str) -> bool:
        """Take a slot of the host, where one is free."""
        return self._throttle.lend(host)

    def give_back(self, host: str) -> None:
        """Give back what was taken."""
        self._throttle.finished(host)
        self._queue.rouse(host)

    def answered(
        self, host: str, status: int, headers: Mapping[str, str], started_at: float
    ) -> bool:
        """Pause the host where an answer asks for that: 429, and 503 with a ``Retry-After``.

        A 503 alone may be that of one part of a site which is broken, and of no use to the page.
        """
        seconds = retry_after(headers, self._clock.now())
        if status != 429 and not (status == 503 and seconds is not None):
            return False
        self._throttle.pause(host, seconds, started_at=started_at)
        return True
