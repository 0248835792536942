"""The summary at the end of a run: what happened, what failed and why, and what to do next."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import printable
from ..stores.postgres.address import masked
from .output import columns, plural, span, styled
from .verbs import program

if TYPE_CHECKING:
    from ..counting.errorgroups import ErrorStatistics
    from ..crawler import Crawler
    from ..statistics import Statistics

log = logging.getLogger("crawlkit.run")

ERRORS = 3
"""Groups of errors that are told."""

LABEL = 13
"""Columns of the labels on the left."""


def closing(crawler: Crawler, address: str, code: int, again: str, more: str) -> str:
    """The summary.

    Args:
        crawler: What was run.
        address: Where its run is.
        code: The exit code.
        again: The command that was given, with which a run that was stopped goes on.
        more: The same with a higher limit of pages.
    """
    statistics = crawler.statistics
    lines = [_headline(crawler.name, statistics, code)]
    lines += (_wrapped(f"{label:<{LABEL}}{text}") for label, text in _what(statistics))
    lines += (
        f"{label:<{LABEL}}{text}"
        for label, text in _next(crawler, address, again if code else more)
    )
    return "\n".join(lines)


def log_closing(crawler: Crawler, address: str, code: int) -> None:
    """The summary as a record of the log, with its numbers as fields."""
    s = crawler.statistics
    log.info(
        "%s %s",
        "finished" if code == 0 else "stopped",
        crawler.name,
        extra={
            "run": masked(address),
            "exit_code": code,
            "runtime_seconds": s.runtime_seconds,
            "lives": s.lives,
            "requests_finished": s.requests_finished,
            "requests_failed": s.requests_failed,
            "requests_skipped": s.requests_skipped,
            "pending": s.pending + s.in_flight,
            "items_saved": s.items_saved,
            "errors": [
                {"kind": error.kind, "message": error.message, "count": error.count}
                for error in s.errors[:ERRORS]
            ],
        },
    )


def _headline(name: str, s: Statistics, code: int) -> str:
    what, colour = ("finished", "green") if code == 0 else ("stopped", "yellow")
    lives = "" if s.lives == 1 else f" in {s.lives} lives"
    failed = f"{s.requests_failed:,} failed"
    line = (
        f"{what} {name} after {span(s.runtime_seconds)}{lives}: "
        f"{plural(s.requests_finished, 'page')}, {plural(s.items_saved, 'item')}, "
        f"{failed}, {s.pending + s.in_flight:,} pending"
    )
    line = styled(what, colour) + _wrapped(line).removeprefix(what)
    return line.replace(failed, styled(failed, "red")) if s.requests_failed else line


def _what(s: Statistics) -> Iterator[tuple[str, str]]:
    """What there is to say beyond the numbers."""
    if not s.requests_total:
        yield "nothing:", "there was no URL to begin with; set start_urls, or name URLs"
    for label, error in zip(("most errors:", "", ""), s.errors[:ERRORS], strict=False):
        yield label, _error(error)
    if len(s.errors) > ERRORS:
        yield "", f"and {plural(len(s.errors) - ERRORS, 'kind')} more"
    if s.requests_skipped:
        reasons = sorted(s.skipped_by_reason.items(), key=lambda entry: -entry[1])
        text = ", ".join(f"{count:,} {reason}" for reason, count in reasons if count)
        yield "skipped:", f"{plural(s.requests_skipped, 'link')} ({text})"
    if s.cache_hits:
        asked = s.cache_hits + s.cache_misses + s.cache_revalidated
        yield "from cache:", f"{s.cache_hits:,} of {plural(asked, 'page')}"
    if s.requests_finished and not s.items_saved:
        yield "items:", "none was saved; page.save(...) in a handler does that"


def _error(error: ErrorStatistics) -> str:
    place = f" ({error.place})" if error.place else ""
    example = f", as at {error.examples[0]}" if error.examples else ""
    return printable(f"{error.count:,} x {error.kind}: {error.message}{place}{example}")


def _next(crawler: Crawler, address: str, again: str) -> Iterator[tuple[str, str]]:
    """Commands, each on a line of its own that can be copied, however long it is."""
    s = crawler.statistics
    if s.pending or s.finished_at is None:
        yield "go on with:", again
    if s.items_saved:
        copy = f" (and in {crawler.output})" if crawler.is_output_written else ""
        yield "items:", f"{program()} items {masked(address)} -o items.csv{copy}"
    if s.requests_failed:
        yield "failures:", f"{program()} failed {masked(address)} ls   (to try them again: retry)"
    yield "statistics:", f"{program()} stats {masked(address)}"


def _wrapped(line: str) -> str:
    """A line of text, on several lines of the terminal where it must be."""
    width = columns()
    if width is None or len(line) <= width:
        return line
    return textwrap.fill(
        line,
        max(width - 1, LABEL + 20),
        subsequent_indent=" " * LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )
