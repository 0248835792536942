"""Progress: where the crawl stands, on two lines of a terminal or now and then in a log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from ..observing.progress import Pace, Standing, fit, line_of, told
from .listening import listening

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from ..clock import Clock
    from ..crawler import Crawler
    from ..events import CrawlerStatus

log = logging.getLogger("crawlkit.progress")

LOG_INTERVAL = 10.0
"""Seconds between two lines of a log."""


def is_screen(stream: IO[str]) -> bool:
    """Whether lines can be written over there: a terminal, and not a dumb one."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class LogProgress:
    """A listener of `crawlerStatus` that writes a line to the log now and then.

    The line's record has its numbers as fields, too, for logs in JSON.
    """

    def __init__(
        self, clock: Clock, *, max_pages: int | None = None, interval: float | None = None
    ) -> None:
        self._clock = clock
        self._pace = Pace(clock, max_pages)
        self._interval = LOG_INTERVAL if interval is None else interval
        self._shown_at = clock.now()

    def __call__(self, status: CrawlerStatus) -> None:
        """Take note, and write a line if it is time to."""
        standing = self._pace.update(status)
        now = self._clock.now()
        if now - self._shown_at >= self._interval:
            self._shown_at = now
            log.info("%s", line_of(standing), extra=asdict(standing))


class Lines:
    """What stands at the foot of the terminal. It is laid out for the width of the moment."""

    def __init__(self) -> None:
        self.standing: Standing | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Two lines, each with as much as has room in it."""
        from rich.text import Text

        if self.standing is None:
            yield Text("starting")
            return
        for parts in told(self.standing):
            line = Text(", ").join(
                Text(part.text, style=part.style) for part in fit(parts, options.max_width - 1)
            )
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line


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
def progress_of(crawler: Crawler, *, live: bool = True) -> Iterator[None]:
    """Show the progress of a crawl while it lasts, on standard error.

    Args:
        crawler: The crawl.
        live: Whether it may be shown on lines that are written over, where that is possible.
    """
    showing = _on_screen if live and is_screen(sys.stderr) else _in_log
    with showing(crawler) as listener, listening(crawler, {"crawlerStatus": listener}):
        yield


@contextmanager
def _in_log(crawler: Crawler) -> Iterator[Callable[[CrawlerStatus], None]]:
    yield LogProgress(crawler.clock, max_pages=crawler.max_pages)


@contextmanager
def _on_screen(crawler: Crawler) -> Iterator[Callable[[CrawlerStatus], None]]:
    from rich.console import Console  # here, as only a terminal has to wait for it
    from rich.live import Live

    class Steady(Console):
        def show_cursor(self, show: bool = True) -> bool:
            # Never hidden: a process that is killed could not bring it back.
            return False

    pace, lines = Pace(crawler.clock, crawler.max_pages), Lines()
    # Refreshed by events alone: no thread. What is logged or printed meanwhile goes above the
    # lines; but what handlers print stays on standard output where that leads elsewhere.
    with Live(
        lines,
        console=Steady(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as live:

        def show(status: CrawlerStatus) -> None:
            lines.standing = pace.update(status)
            live.refresh()

        yield show
