"""The runner: an event loop for a crawl, and the exit code that it ends with."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable, Set
from types import AsyncGeneratorType, FrameType
from typing import Any, Protocol

from .counting.errorgroups import place_in
from .errors import UsageError

try:
    import uvloop
except ImportError:  # where it does not exist, plain asyncio is slower and otherwise the same
    uvloop = None  # type: ignore[assignment]


log = logging.getLogger("crawlkit.runner")

PATIENCE = 0.1
"""Seconds that tasks have to end which a handler or listener has left running."""


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
        UsageError: There is a running event loop already.
        CrawlkitError: The crawl could not be begun, or could not go on.
        SystemExit: A handler, hook or listener has ended the process. It is never with 0 where the
            crawl is not finished.
    """
    if _is_loop_running():
        raise UsageError(
            f"an event loop is running here, as in a notebook; write 'await "
            f"{type(crawler).__name__}(...).crawl()' instead of run()"
        )
    # What is loaded by now stays to the end. Each full collection that goes through it stops the
    # event loop for 30 to 60 ms.
    gc.freeze()
    runner = asyncio.Runner(loop_factory=loop_factory())
    try:
        try:
            runner.run(crawler.crawl(fresh=fresh, signals=True))
        finally:
            _close(runner.get_loop())
            gc.unfreeze()
    except SystemExit as error:
        if error.code:
            raise
        # A handler that ends the process with 0 has not finished the crawl.
        raise SystemExit(crawler.exit_code) from None
    return crawler.exit_code


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes event loops here: uvloop's, or asyncio's own."""
    return asyncio.new_event_loop if uvloop is None else uvloop.new_event_loop


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close the loop. `asyncio.Runner.close` would wait for what does not let itself be cancelled.

    The crawl is over and saved by then, so whatever still runs is the user's, and is left behind.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    for task in _unended(loop, tasks):
        _tell(task.get_coro(), task.get_stack())
    if _unended(loop, {loop.create_task(loop.shutdown_asyncgens())}):
        # The loop says of none which it is. They were made since what was there was frozen.
        for found in gc.get_objects():
            if isinstance(found, AsyncGeneratorType) and found.ag_running and found.ag_frame:
                _tell(found, [found.ag_frame])
    loop.close()


def _unended(
    loop: asyncio.AbstractEventLoop, tasks: Set[asyncio.Task[Any]]
) -> list[asyncio.Task[Any]]:
    """Those of the tasks that do not end."""
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE))
    return [task for task in tasks if not task.done()]


def _tell(what: Any, frames: Iterable[FrameType]) -> None:
    """Say what is left behind, and at which line of the user's."""
    place = place_in((frame, frame.f_lineno) for frame in frames)
    name = getattr(what, "__qualname__", what)
    log.error("%s does not end, and is left behind", f"{place}: {name}" if place else name)
