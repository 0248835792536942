"""A turnstile for the pages of a site: however late a crawl is killed, it has not come farther."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf


class Turnstile:
    """Lets so many requests through, and keeps the others waiting.

    Attributes:
        left: How many more it lets through; all, unless it is told.
    """

    def __init__(self) -> None:
        self.left = inf

    def page(self, html: str) -> Callable[[object], Awaitable[str]]:
        """A page behind it, for `Site.add_page`."""

        async def answer(request: object) -> str:
            self.left -= 1
            while self.left < 0:  # noqa: ASYNC110 - it is set by another thread
                await asyncio.sleep(0.01)
            return html

        return answer
