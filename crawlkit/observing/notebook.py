"""The progress of a crawl in a notebook: one display that is kept up to date.

Nothing here imports IPython: where it is not loaded already, there is no notebook.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import printable
from ..figures import plural, span
from .progress import Pace, told

if TYPE_CHECKING:
    from ..clock import Clock
    from ..events import CrawlerStatus
    from ..statistics import Statistics

log = logging.getLogger("crawlkit.notebook")


class Shown(Protocol):
    """What of a crawler is shown."""

    name: str
    max_pages: int | None
    clock: Clock
    statistics: Statistics
    exit_code: int

    def on(self, event: str, listener: Callable[..., object]) -> None:
        """Listen."""

    def off(self, event: str, listener: Callable[..., object] | None = None) -> None:
        """Listen no more."""


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def show(crawler: Shown) -> Callable[[bool], None]:
    """Show how a crawl goes, where this is a notebook.

    Returns:
        What to call at the end, with whether the crawl is finished.
    """
    if not is_notebook():
        return lambda is_finished: None
    display = sys.modules["IPython"].display
    pace = Pace(crawler.clock, crawler.max_pages)
    try:
        shown = display.display(Panel(crawler.name, ["starting"]), display_id=True)
    except Exception:
        log.debug("there is no display for %s", crawler.name, exc_info=True)
        return lambda is_finished: None

    def on_status(status: CrawlerStatus) -> None:
        standing = pace.update(status)
        lines = [", ".join(part.text for part in parts) for parts in told(standing)]
        shown.update(Panel(crawler.name, lines))

    def end(is_finished: bool) -> None:
        crawler.off("crawlerStatus", on_status)
        try:
            shown.update(Panel(crawler.name, _closing(crawler.statistics, is_finished)))
        except Exception:
            log.debug("the display of %s is gone", crawler.name, exc_info=True)

    crawler.on("crawlerStatus", on_status)
    return end


class Panel:
    """A title and some lines, as HTML and as text. Whatever a page wrote stays text."""

    def __init__(self, title: str, lines: list[str]) -> None:
        self._title = printable(title)
        self._lines = [printable(line) for line in lines]

    def __repr__(self) -> str:
        return "\n".join([f"{self._title}: {self._lines[0]}", *self._lines[1:]])

    def _repr_html_(self) -> str:
        lines = "<br>".join(map(escape, self._lines))
        return (
            '<div style="border-left:3px solid currentColor;padding:0 .8em;'
            f'font-variant-numeric:tabular-nums"><b>{escape(self._title)}</b><br>{lines}</div>'
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}


def _closing(s: Statistics, is_finished: bool) -> list[str]:
    lines = [
        f"{'finished' if is_finished else 'stopped'} after {span(s.runtime_seconds)}: "
        f"{plural(s.requests_finished, 'page')}, {plural(s.items_saved, 'item')}, "
        f"{s.requests_failed:,} failed, {s.pending + s.in_flight:,} pending"
    ]
    if not is_finished:
        lines.append("run it again to go on")
    if s.errors:
        worst = s.errors[0]
        lines.append(f"most errors: {worst.count:,} x {worst.kind}: {worst.message}")
    return lines
