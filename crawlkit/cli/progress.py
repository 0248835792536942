"""Progress: where the crawl stands, on one line of a terminal or now and then in a log."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .output import span

if TYPE_CHECKING:
    from ..clock import Clock
    from ..crawler import Crawler
    from ..events import CrawlerStatus

log = logging.getLogger("crawlkit.progress")

LOG_INTERVAL = 10.0
"""Seconds between two lines of a log."""

RATE_OVER = 10
"""Status events over which the speed is measured."""


class Progress:
    """Tells in one line what each `crawlerStatus` says.

    Args:
        clock: Steady time.
        show: Takes the line.
        interval: Seconds between two lines, at least.
    """

    def __init__(self, clock: Clock, show: Callable[[str], None], *, interval: float = 0.0) -> None:
        self._clock = clock
        self._show = show
        self._interval = interval
        self._began_at = self._shown_at = clock.now()
        self._recent: deque[tuple[float, int]] = deque(maxlen=RATE_OVER)

    def update(self, status: CrawlerStatus) -> None:
        """A listener of `crawlerStatus`."""
        now = self._clock.now()
        self._recent.append((now, status.finished))
        if now - self._shown_at >= self._interval:
            self._shown_at = now
            self._show(self._line(status, now))

    def _line(self, status: CrawlerStatus, now: float) -> str:
        (first_at, finished), (last_at, finished_now) = self._recent[0], self._recent[-1]
        passed = last_at - first_at
        rate = f"{(finished_now - finished) / passed:.1f} pages/s" if passed else "starting"
        failed = f"{status.failed:,} failed, " if status.failed else ""
        return (
            f"{status.finished:,} done, {failed}{status.pending:,} pending, "
            f"{status.in_flight:,} in flight, {status.items:,} items, {rate}, "
            f"{span(now - self._began_at)}"
        )


@contextmanager
def export_progress(total: int, *, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far an export has come; what it is to be told by.

    Args:
        total: How many items it will go through.
        is_shown: Whether it is shown at all.
    """
    if not (is_shown and sys.stderr.isatty()):
        yield lambda count: None
        return

    from rich.console import Console  # here, as only a terminal has to wait for it
    from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("items", total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def progress_of(crawler: Crawler) -> Iterator[None]:
    """Show the progress of a crawl while it lasts, on standard error."""
    if not sys.stderr.isatty():
        listener = Progress(crawler.clock, log.info, interval=LOG_INTERVAL).update
        crawler.on("crawlerStatus", listener)
        try:
            yield
        finally:
            crawler.off("crawlerStatus", listener)
        return

    from rich.console import Console  # here, as only a terminal has to wait for it
    from rich.live import Live
    from rich.text import Text

    # Refreshed by events alone: no thread. What is logged meanwhile goes above the line.
    console = Console(stderr=True)
    with Live(Text("starting"), console=console, auto_refresh=False, transient=True) as live:

        def show(line: str) -> None:
            live.update(Text(line, overflow="ellipsis", no_wrap=True), refresh=True)

        listener = Progress(crawler.clock, show).update
        crawler.on("crawlerStatus", listener)
        try:
            yield
        finally:
            crawler.off("crawlerStatus", listener)
