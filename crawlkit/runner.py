"""The runner: an event loop for a crawl, and the exit code that it ends with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

try:
    import uvloop
except ImportError:  # where it does not exist, plain asyncio is slower and otherwise the same
    uvloop = None  # type: ignore[assignment]


class Runnable(Protocol):
    """What the runner needs of a crawler."""

    exit_code: int

    async def crawl(self, *, fresh: bool = False, signals: bool = False) -> Any:
        """Run until finished or stopped."""


def run(crawler: Runnable, *, fresh: bool = False) -> int:
    """Run a crawl in an event loop of its own, uvloop's where there is one.

    Args:
        crawler: The crawler.
        fresh: Throw away what the run holds, and start anew.

    Returns:
        0 where the crawl is finished, 75 where it was stopped and can go on.

    Raises:
        CrawlkitError: The crawl could not be begun, or could not go on.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(crawler.crawl(fresh=fresh, signals=True))
    return crawler.exit_code


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops here: uvloop's, or `None` for asyncio's own."""
    return None if uvloop is None else uvloop.new_event_loop
