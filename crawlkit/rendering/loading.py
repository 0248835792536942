"""Loading: what a page loads from its own host, one thing after the other or several at once.

A page of the browser holds one of the slots of its host, as a plain request does. Once its document
has come it needs the slot for nothing else, so what it loads from there next goes through the same
one. Whatever it loads at the same time needs a slot that is free. So there are never more requests
at a host than it has slots, and no two pages wait for each other, for each has one already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

HELD = 5.0
"""Seconds after which something that is being loaded does not hold the next up any more: it may be
a stream without end."""
LOOK_AGAIN = 0.05
"""Seconds after which it is seen whether a slot has become free."""


class Manners(Protocol):
    """What a host asks of those who load from it. Hosts are ``host[:port]``."""

    def refusal(self, url: str) -> str | None:
        """The line of a robots.txt that forbids a URL, where one is known that does."""

    async def wait(self, host: str) -> None:
        """Wait until a short pause of the host is over. Raises what ends the page in a long one."""

    def take(self, host: str) -> bool:
        """Take a slot of the host, where one is free."""

    def give_back(self, host: str) -> None:
        """Give back what was taken."""

    def answered(
        self, host: str, status: int, headers: Mapping[str, str], started_at: float
    ) -> bool:
        """What came; whether the host asks by it to be left alone."""

    def now(self) -> float:
        """Unix time."""


class Loading:
    """What one page loads from its own host.

    Args:
        manners: What its host asks of us.
    """

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._queue = asyncio.Lock()
        self._freed = asyncio.Event()
        self._own: str | None = None  # what goes through the page's own slot
        self._slots: dict[str, str] = {}  # what has another one, and of which host
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._started: dict[str, tuple[str, float]] = {}
        self._waiting = 0
        self._is_warned = False

    @property
    def is_waiting(self) -> bool:
        """Whether the page would load more than it may for now."""
        return self._waiting > 0

    async def begin(self, name: str, host: str, url: str) -> str | None:
        """Wait until something may be loaded; or why it may not.

        Args:
            name: What the browser calls the request, over all its redirects.
            host: The page's host, which is that of the URL.
            url: Its URL.
        """
        if line := self._manners.refusal(url):
            return line
        if name not in self._started:
            self._waiting += 1
            try:
                await self._turn(name, host)
            finally:
                self._waiting -= 1
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(HELD, self._free, name)
            self._started[name] = host, self._manners.now()
        return None

    async def _turn(self, name: str, host: str) -> None:
        # In their order, and one at a time looks: a page may ask for thousands of things at once.
        async with self._queue:
            await self._slot(name, host)

    async def _slot(self, name: str, host: str) -> None:
        while True:
            if not self._is_warned:
                await self._manners.wait(host)
            if self._own is None:
                self._own = name
                return
            if self._manners.take(host):
                self._slots[name] = host
                return
            self._freed.clear()
            try:
                async with asyncio.timeout(LOOK_AGAIN):
                    await self._freed.wait()
            except TimeoutError:
                continue

    def answered(self, name: str, status: int, headers: Mapping[str, str]) -> None:
        """The head of an answer has come."""
        if name in self._started:
            host, started_at = self._started[name]
            if self._manners.answered(host, status, headers, started_at):
                # What has begun may end: to begin anew after the pause would ask for more.
                self._is_warned = True

    def ended(self, name: str) -> None:
        """Something was loaded, or was not."""
        self._started.pop(name, None)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        self._free(name)

    def close(self) -> None:
        """The page is no more."""
        for name in list(self._started):
            self.ended(name)

    def _free(self, name: str) -> None:
        if self._own == name:
            self._own = None
        elif name in self._slots:
            self._manners.give_back(self._slots.pop(name))
        self._freed.set()
