"""Progress: where a crawl stands, how fast it is, and when it will be done, if that can be known.

Decisions only: what is shown, and in how much room. Terminals are in `cli/progress.py`, notebooks
in `notebook.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import NamedTuple

from ..clock import Clock
from ..events import CrawlerStatus
from ..figures import span

RATE_OVER = 10.0
"""Seconds over which the speed is measured."""

WATCHES = ((60.0, inf), (30.0, 900.0), (12.0, 240.0))
"""Seconds over which it is watched whether the end is in sight, the longest first, and how far the
end may then be: who has watched for a short time cannot see far."""

DISCOVERY = 0.1
"""New requests for each one that is done, up to which discovery counts as over."""

STEADY = 2.0
"""How many times as fast one half of the time may be as the other, for the end to be in sight."""


class Mark(NamedTuple):
    """Where the crawl stood at a moment: what was done, and what was known and not done."""

    at: float
    done: int
    left: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What a display shows.

    Attributes:
        finished: Requests handled, over all lives.
        failed: Requests given up, over all lives.
        pending: Requests that wait.
        in_flight: Requests being fetched or handled.
        items: Items saved, over all lives.
        cache_hits: Pages that came from the page cache, over all lives.
        elapsed: Seconds since this life began.
        rate: Pages per second of late, or ``None`` at the start.
        seconds_left: Seconds until the crawl is done, or ``None`` where nobody can know.
    """

    finished: int
    failed: int
    pending: int
    in_flight: int
    items: int
    cache_hits: int
    elapsed: float
    rate: float | None
    seconds_left: float | None


class Pace:
    """Watches a crawl go by.

    Args:
        clock: Steady time.
        max_pages: The crawl's limit of pages, if there is one: an end that is known.
    """

    def __init__(self, clock: Clock, max_pages: int | None = None) -> None:
        self._clock = clock
        self._max_pages = max_pages
        self._began_at = clock.now()
        self._marks: deque[Mark] = deque()

    def update(self, status: CrawlerStatus) -> Standing:
        """What is known after a `crawlerStatus`."""
        now = self._clock.now()
        done = status.finished + status.failed
        self._marks.append(Mark(now, done, status.pending + status.in_flight))
        while now - self._marks[0].at > WATCHES[0][0] + 1:
            self._marks.popleft()
        return Standing(
            finished=status.finished,
            failed=status.failed,
            pending=status.pending,
            in_flight=status.in_flight,
            items=status.items,
            cache_hits=status.cache_hits,
            elapsed=now - self._began_at,
            rate=_rate([mark for mark in self._marks if now - mark.at <= RATE_OVER]),
            seconds_left=seconds_left(self._marks, self._max_pages),
        )


def _rate(marks: Sequence[Mark]) -> float | None:
    if len(marks) < 2:
        return None
    first, last = marks[0], marks[-1]
    return (last.done - first.done) / (last.at - first.at) if last.at > first.at else None


def seconds_left(marks: Iterable[Mark], max_pages: int | None = None) -> float | None:
    """Seconds until the crawl is done, where that can be known, else ``None``.

    While pages still lead to new ones nobody knows how many there will be. So nothing is said
    before discovery has nearly ended, in both halves of the last seconds, and at a steady pace. A
    limit of pages is an end that is known earlier: once as many are pending as it still allows.

    Args:
        marks: Where the crawl stood, in the order of time.
        max_pages: The crawl's limit of pages.
    """
    marks = list(marks)
    for watched, farthest in WATCHES:
        recent = [mark for mark in marks if marks[-1].at - mark.at <= watched]
        if len(recent) > 2 and recent[-1].at - recent[0].at >= 0.9 * watched:
            seconds = _seconds_left(recent, max_pages)
            if seconds is not None and seconds <= farthest:
                return seconds
    return None


def _seconds_left(marks: Sequence[Mark], max_pages: int | None) -> float | None:
    first, middle, last = marks[0], marks[len(marks) // 2], marks[-1]
    halves = list(pairwise((first, middle, last)))
    rates = [(after.done - before.done) / (after.at - before.at) for before, after in halves]
    if not min(rates) or max(rates) / min(rates) > STEADY:
        return None
    rate = (last.done - first.done) / (last.at - first.at)
    if max_pages is not None and last.left >= (remaining := max(max_pages - last.done, 0)):
        return remaining / rate
    for before, after in halves:
        done = after.done - before.done
        found = max(done + after.left - before.left, 0)
        if found > DISCOVERY * done:
            return None
    drained = (first.left - last.left) / (last.at - first.at)
    return last.left / drained if drained > 0 else None


# -- in words ---------------------------------------------------------------------------------


class Part(NamedTuple):
    """A part of a line. Where there is no room for all of them, the lowest rank goes first."""

    text: str
    rank: int
    style: str = ""


def told(standing: Standing) -> list[list[Part]]:
    """Two lines: how much, and how fast."""
    s = standing
    counts = [Part(f"{s.finished:,} done", 9, "bold")]
    if s.failed:
        counts.append(Part(f"{s.failed:,} failed", 8, "red"))
    counts.append(Part(f"{s.pending:,} pending", 7))
    counts.append(Part(f"{s.in_flight:,} in flight", 3))
    counts.append(Part(f"{s.items:,} items", 5))
    pace = [Part("starting" if s.rate is None else f"{s.rate:.1f} pages/s", 9)]
    if s.cache_hits:
        pace.append(Part(f"{s.cache_hits:,} from cache", 5))
    pace.append(Part(_clock_face(s.elapsed), 3))
    if s.seconds_left is not None:
        pace.append(Part(f"about {_roughly(s.seconds_left)} left", 8, "green"))
    return [counts, pace]


def fit(parts: Sequence[Part], width: int, separator: str = ", ") -> list[Part]:
    """The parts that have room in `width` columns; the most important one is always there."""
    kept = list(parts)
    while len(kept) > 1 and len(separator.join(part.text for part in kept)) > width:
        kept.remove(min(kept, key=lambda part: part.rank))
    return kept


def line_of(standing: Standing) -> str:
    """All of it on one line, for a log."""
    return ", ".join(part.text for parts in told(standing) for part in parts)


def _clock_face(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _roughly(seconds: float) -> str:
    """No more digits than an estimate has."""
    if seconds < 55:
        return f"{max(round(seconds / 5) * 5, 5)} s"
    if seconds < 55 * 60:
        return f"{max(round(seconds / 60), 1)} min"
    return span(round(seconds / 600) * 600)
